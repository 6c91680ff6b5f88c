"""What was found of a draft: acceptance, speed with its interval, and whether outputs are equal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt.errors import GateMissed, SlimGPTError, Unresolved
from slimgpt_bench.drafting import DraftOptions, Measured, Pair, Run
from slimgpt_bench.equality import TIE, Equality, compare, tie_limit
from slimgpt_bench.intervals import (
    FEWEST,
    INSUFFICIENT,
    Interval,
    Verdict,
    mean_interval,
    paired_ratio,
    share_interval,
    verdict,
)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How much of what was drafted the dense model would have said.

    Counted over one round: the others repeat it.

    Attributes:
        steps: that had a draft.
        drafted: tokens.
        accepted: tokens, by their place in the draft.
        interval: of the share of accepted tokens, over batches; None for too few.
        batches: that the interval is of.
    """

    steps: int
    drafted: int
    accepted: tuple[int, ...]
    interval: Interval | None
    batches: int

    @property
    def rate(self) -> float:
        """Accepted over drafted tokens."""
        return sum(self.accepted) / self.drafted if self.drafted else 0.0

    @property
    def length(self) -> float:
        """Tokens of a step: the accepted ones, and the one that the dense model adds."""
        return sum(self.accepted) / self.steps + 1 if self.steps else 1.0

    @property
    def per_position(self) -> list[float]:
        """Share of steps in which the draft's first, second, ... token was accepted."""
        return [x / self.steps if self.steps else 0.0 for x in self.accepted]

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "drafted": self.drafted,
            "accepted": sum(self.accepted),
            "rate": self.rate,
            "interval": list(self.interval) if self.interval else INSUFFICIENT,
            "n": self.batches,
            "tokens_per_step": self.length,
            "per_position": self.per_position,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """One number of draft tokens.

    Attributes:
        tokens: drafted at a time.
        acceptance: of them.
        speeds: decoded tokens a second of each round.
        ratio: to the dense model's speed.
        interval: of that ratio; None for too few rounds.
        equality: of the outputs.
    """

    tokens: int
    acceptance: Acceptance
    speeds: tuple[float, ...]
    ratio: float
    interval: Interval | None
    equality: Equality

    @property
    def verdict(self) -> Verdict:
        return verdict(self.interval)

    def to_json(self) -> dict[str, Any]:
        return {
            "draft_tokens": self.tokens,
            "acceptance": self.acceptance.to_json(),
            "decode_tokens_per_s": quantity(self.speeds),
            "ratio": self.ratio,
            "interval": list(self.interval) if self.interval else INSUFFICIENT,
            "n": len(self.speeds),
            "verdict": self.verdict,
            "outputs": self.equality.to_json(),
        }


@dataclass(frozen=True, slots=True)
class DraftResult:
    """The whole measurement, ready to be told.

    Attributes:
        pair: the models.
        options: of the command.
        run: what was measured.
        outcomes: one for each number of draft tokens.
    """

    pair: Pair
    options: DraftOptions
    run: Run
    outcomes: tuple[Outcome, ...]

    @property
    def dense_speeds(self) -> list[float]:
        return self.run.engines[0].speeds()

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        dense, draft = self.pair.dense, self.pair.draft
        about = self.run.engines[0].about
        return {
            "dense": {"model": dense.name, "parameters": dense.shape.parameters},
            "draft": {"model": draft.name, "parameters": draft.shape.parameters},
            "protocol": {
                "prompts": self.options.prompts,
                "prompt_source": self.source,
                "prompt_tokens": self.options.prompt_tokens,
                "max_new_tokens": self.options.max_new_tokens,
                "batch": self.options.batch,
                "rounds": self.options.repeat,
                "side_by_side": self.run.together,
                "compiled": not self.options.eager,
                "dtype": self.options.dtype,
                "seed": self.options.seed,
            },
            "environment": {k: about[k] for k in ("vllm", "torch", "device", "threads")},
            "logprob_noise": self.run.noise,
            "dense_decode_tokens_per_s": quantity(self.dense_speeds),
            "drafts": [x.to_json() for x in self.outcomes],
        }

    @property
    def source(self) -> str:
        """Where the prompts are from, in words."""
        text = self.options.text
        return f"windows of {text.name}" if text else "the dense model's own samples"

    def problem(self) -> SlimGPTError | None:
        """Why the exit code is not 0: other outputs first, then a speed that can't be told."""
        for outcome in self.outcomes:
            if outcome.equality.differences:
                return _differs(outcome)
        if self.options.repeat < FEWEST:
            return Unresolved(
                f"--repeat {self.options.repeat} gives too few rounds for an interval: give at "
                f"least {FEWEST}"
            )
        unsure = [str(x.tokens) for x in self.outcomes if x.verdict == "unresolved"]
        if unsure:
            return Unresolved(
                f"whether --draft-tokens {', '.join(unsure)} is faster can't be told from "
                f"--repeat {self.options.repeat} rounds, whose interval has 1 inside: give more, "
                "or longer answers with --max-new-tokens"
            )
        return None


def quantity(values: Sequence[float]) -> dict[str, Any]:
    """Median, 95 % interval of the mean and number of what was measured once a round."""
    interval = mean_interval(values)
    return {
        "median": statistics.median(values),
        "interval": list(interval) if interval else INSUFFICIENT,
        "n": len(values),
    }


def judge(pair: Pair, options: DraftOptions, run: Run) -> DraftResult:
    """From what engines said to what may be said of them."""
    limit = tie_limit(options.dtype, run.noise)
    outcomes = []
    for tokens in options.draft_tokens:
        engine = run.engines[tokens]
        ratio, interval = paired_ratio(engine.speeds(), run.engines[0].speeds())
        outcomes.append(
            Outcome(
                tokens,
                _acceptance(engine, tokens),
                tuple(engine.speeds()),
                ratio,
                interval,
                compare(run.references, engine.answers(), limit),
            )
        )
    return DraftResult(pair, options, run, tuple(outcomes))


def _acceptance(engine: Measured, tokens: int) -> Acceptance:
    counted = [batch["counters"] for batch in engine.rounds[0]]
    steps, drafted, _, *places = (sum(column) for column in zip(*counted, strict=True))
    interval = share_interval([x[2] for x in counted], [x[1] for x in counted])
    return Acceptance(steps, drafted, tuple(places[:tokens]), interval, len(counted))


def _differs(outcome: Outcome) -> GateMissed:
    equality = outcome.equality
    first = equality.differences[0]
    more = "more than " if first.bounded else ""
    return GateMissed(
        f"with --draft-tokens {outcome.tokens} {len(equality.differences)} of {equality.prompts} "
        f"answers are not the dense model's: prompt {first.prompt} has token {first.found} at "
        f"position {first.position} instead of {first.expected}, which is likelier by "
        f"{more}{first.margin:.3g} nats, and {equality.limit:.3g} would be a tie; this vLLM "
        "accepts what it should not, so don't serve with this draft",
        measured=first.margin,
        limit=equality.limit,
    )


def tie_words(equality: Equality) -> str:
    """How the outputs compare, in a few words."""
    words = f"{equality.identical} of {equality.prompts} identical"
    if equality.ties:
        words += f", {len(equality.ties)} part at a tie"
        words += f" (within {equality.limit:.3g} nats)" if equality.limit > TIE else ""
    if equality.differences:
        words += f", {len(equality.differences)} differ"
    return words
