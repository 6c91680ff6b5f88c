"""Speculative decoding measured: a dense model alone, and with a pruned one that drafts for it.

Engines are kept side by side where memory allows, else they take turns. Every round runs all of
them over the same prompts, each round in another order, so that what disturbs the machine
disturbs all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimgpt.errors import UsageError
from slimgpt.progress import Progress, stage
from slimgpt_bench.engine import Engine
from slimgpt_bench.equality import TOP, Reference, noise
from slimgpt_bench.prompts import own_beginnings, text_prompts
from slimgpt_serve.preflight.artefact import Artefact
from slimgpt_serve.preflight.limits import context_of, own_class
from slimgpt_serve.preflight.speculative import speculative_config

_WIDEST = 64
"""Draft tokens beyond which no draft pays: a typing error, most likely."""

_STEP = 2048
"""Tokens of one step that vLLM takes on small devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftOptions:
    """The options of ``slimgpt bench draft``, under their own names.

    Attributes:
        draft_tokens: each is measured.
        eager: nothing is compiled and no CUDA graph is captured.
    """

    text: Path | None
    prompts: int
    prompt_tokens: int
    max_new_tokens: int
    draft_tokens: tuple[int, ...]
    repeat: int
    batch: int
    seed: int
    dtype: str
    eager: bool

    @property
    def context(self) -> int:
        """Tokens of prompt and answer, and the draft's beyond its end."""
        return self.prompt_tokens + self.max_new_tokens + max(self.draft_tokens) + 1

    @property
    def step_tokens(self) -> int:
        """Tokens of one step: all prompts of a batch are read at once, so that none waits."""
        return max(_STEP, self.batch * max(self.prompt_tokens, max(self.draft_tokens) + 1))


@dataclass(frozen=True, slots=True)
class Pair:
    """A model and its draft, on one kind of device.

    Attributes:
        dense: the model.
        draft: what drafts for it.
        platform: ``cpu`` or ``cuda``.
        environ: of the engines.
    """

    dense: Artefact
    draft: Artefact
    platform: str
    environ: Mapping[str, str]


@dataclass(slots=True)
class Measured:
    """What one engine did.

    Attributes:
        rounds: of each, one entry a batch, as :meth:`Engine.generate` returns it.
        about: what the engine said of itself.
    """

    rounds: list[list[dict[str, Any]]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def speeds(self) -> list[float]:
        """Decoded tokens a second, of each round."""
        return [
            sum(x["decode_tokens"] for x in batches) / sum(x["decode_s"] for x in batches)
            for batches in self.rounds
        ]

    def answers(self) -> Iterator[list[list[int]]]:
        """Tokens of all prompts, of each round."""
        for batches in self.rounds:
            yield [ids for x in batches for ids in x["ids"]]


@dataclass(frozen=True, slots=True)
class Run:
    """All that was measured.

    Attributes:
        engines: by draft tokens; 0 is the dense model alone.
        references: the dense model's answers and their alternatives.
        noise: of its log-probabilities, in nats.
        together: the engines ran side by side.
    """

    engines: dict[int, Measured]
    references: tuple[Reference, ...]
    noise: float
    together: bool


def check(pair: Pair, options: DraftOptions) -> None:
    """Refuses numbers that can't be, and texts that a model does not take.

    Raises:
        UsageError: naming the option.
    """
    for name in ("prompts", "max_new_tokens", "repeat", "batch", "prompt_tokens"):
        least = 2 if name == "max_new_tokens" else 1
        if getattr(options, name) < least:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {getattr(options, name)}: give at least {least}")
    for tokens in options.draft_tokens:
        if not 1 <= tokens <= _WIDEST:
            raise UsageError(f"--draft-tokens {tokens}: give 1 to {_WIDEST}")
    limit = min(context_of(x.meta).limit for x in (pair.dense, pair.draft))
    if options.context > limit:
        raise UsageError(
            f"--prompt-tokens {options.prompt_tokens}, --max-new-tokens {options.max_new_tokens} "
            f"and --draft-tokens {max(options.draft_tokens)} need a context of {options.context}, "
            f"and the models take {limit}: give less of one of these"
        )


def engine_options(pair: Pair, options: DraftOptions, tokens: int, kv_bytes: int) -> dict[str, Any]:
    """Options of vLLM's ``LLM``; ``tokens`` are drafted, 0 for none."""
    out: dict[str, Any] = {
        "model": str(pair.dense.directory.resolve()),
        "dtype": options.dtype,
        "seed": options.seed,
        "max_model_len": options.context,
        "max_num_seqs": options.batch,
        "max_num_batched_tokens": options.step_tokens,
        "kv_cache_memory_bytes": kv_bytes,
        # Of no effect beside the above, but for a check that several engines would fail.
        "gpu_memory_utilization": 0.01,
        "enable_prefix_caching": False,  # every round reads its prompts anew
        "disable_log_stats": False,
        "enforce_eager": options.eager,
        "distributed_executor_backend": "uni",
        "skip_tokenizer_init": True,
    }
    architecture = own_class(pair.dense.meta, pair.platform)
    if architecture:
        out["hf_overrides"] = {"architectures": [architecture]}
    if tokens:
        out["speculative_config"] = json.loads(speculative_config(pair.draft, tokens, 1))
    return out


def measure(
    pair: Pair,
    options: DraftOptions,
    kv_bytes: Mapping[int, int],
    progress: Progress,
    *,
    together: bool,
) -> Run:
    """Runs everything.

    Args:
        pair: the two models.
        options: checked.
        kv_bytes: KV cache of each engine, by draft tokens.
        progress: watches.
        together: the engines run side by side.

    Raises:
        EnvironmentProblem: an engine died.
    """
    wishes = {k: engine_options(pair, options, k, kv_bytes[k]) for k in (0, *options.draft_tokens)}
    engines = {k: Measured() for k in wishes}
    everything, batch = len(wishes) * options.repeat + 1, options.batch
    with stage(progress, "measuring", everything), ExitStack() as open_engines:
        started = _start(pair, wishes, open_engines) if together else None
        with _engine(pair, wishes, started, 0) as dense:
            prompts = _prompts(pair.dense, options, dense)
            references, rounding = _reference(dense, prompts, options)
        progress.advance()
        for number in range(options.repeat):
            for k in _order(list(wishes), number):
                with _engine(pair, wishes, started, k) as engine:
                    if number == 0 or not together:  # first answers are slower than the rest
                        engine.generate(prompts[:batch], options.max_new_tokens, batch)
                    ran = engine.generate(prompts, options.max_new_tokens, batch)
                    engines[k].rounds.append(ran)
                    engines[k].about = engine.about
                progress.advance()
    return Run(engines, references, rounding, together)


def _order(names: list[int], number: int) -> list[int]:
    """Engines of one round: each comes first as often as the others, and runs after each other."""
    turn = number // 2 % len(names)
    turned = names[turn:] + names[:turn]
    return turned if number % 2 == 0 else turned[::-1]


def _start(
    pair: Pair, wishes: Mapping[int, dict[str, Any]], open_engines: ExitStack
) -> dict[int, Engine]:
    """All engines, started one after the other: two at once would starve each other."""
    started = {}
    for k, wish in wishes.items():
        started[k] = open_engines.enter_context(Engine(_name(pair, k), wish, pair.environ))
        started[k].ready()
    return started


@contextmanager
def _engine(
    pair: Pair, wishes: Mapping[int, dict[str, Any]], started: dict[int, Engine] | None, k: int
) -> Iterator[Engine]:
    """An engine that runs already, or one for the time of the block."""
    if started:
        yield started[k]
        return
    with Engine(_name(pair, k), wishes[k], pair.environ) as engine:
        yield engine


def _name(pair: Pair, k: int) -> str:
    return f"{pair.dense.name} with --draft-tokens {k}" if k else pair.dense.name


def _prompts(model: Artefact, options: DraftOptions, dense: Engine) -> list[list[int]]:
    if options.text:
        return text_prompts(model.meta, options.text, options.prompts, options.prompt_tokens)
    starts = own_beginnings(model.meta, options.prompts, options.seed)
    return dense.sample(starts, options.prompt_tokens, options.seed)


def _reference(
    dense: Engine, prompts: Sequence[Sequence[int]], options: DraftOptions
) -> tuple[tuple[Reference, ...], float]:
    """The dense model's answers with alternatives, and the rounding of its log-probabilities."""
    said = dense.generate(prompts, options.max_new_tokens, options.batch, top=TOP)
    references = tuple(
        Reference(tuple(ids), tuple({int(i): x for i, x in step.items()} for step in top))
        for batch in said
        for ids, top in zip(batch["ids"], batch["top"], strict=True)
    )
    read = dense.score([[*p, *r.ids] for p, r in zip(prompts, references, strict=True)])
    written = [[step[i] for i, step in zip(r.ids, r.top, strict=True)] for r in references]
    new = options.max_new_tokens
    return references, noise(written, [x[-new:] for x in read])
