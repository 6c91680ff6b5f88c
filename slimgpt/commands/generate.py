"""``slimgpt generate``: by transformers, or of an ONNX export by ONNX Runtime."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import click

from slimgpt.commands.completion import Asked, OnText, Outcome
from slimgpt.commands.console import Console, common, device_options, seed_option
from slimgpt.errors import UsageError

_RUNTIME = "slimgpt_serve.onnx_runtime"
"""Reached by name, since the core imports no other root."""


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """How the next token is chosen, and what ends the text."""
    for decorate in reversed(
        (
            click.option(
                "--max-new-tokens",
                type=click.IntRange(min=1),
                default=64,
                show_default=True,
                help="At most.",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(min=0),
                default=0.0,
                show_default=True,
                help="0 takes the likeliest token every time.",
            ),
            click.option(
                "--top-k",
                type=click.IntRange(min=0),
                default=0,
                show_default=True,
                help="Draw from the likeliest K tokens alone; 0 is all.",
            ),
            click.option(
                "--top-p",
                type=click.FloatRange(min=0, max=1, min_open=True),
                default=1.0,
                show_default=True,
                help="Draw from the likeliest tokens that together reach this probability.",
            ),
            click.option(
                "--repetition-penalty",
                type=click.FloatRange(min=0, min_open=True),
                default=1.0,
                show_default=True,
                help="Above 1, tokens seen before become less likely.",
            ),
            click.option(
                "--stop",
                "stops",
                multiple=True,
                help="End where this text would come, without it (repeatable).",
            ),
        )
    ):
        command = decorate(command)
    return command


@click.command()
@click.argument("model")
@click.argument("prompt")
@sampling_options
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Of ONNX Runtime, for an ONNX export alone.  [default: the cores that may be used]",
)
@seed_option
@device_options
@common
def generate(console: Console, model: str, dtype: str, threads: int | None, **options: Any) -> None:
    """One completion of PROMPT by MODEL, for the eye.

    MODEL may be an ONNX export too: it runs on ONNX Runtime, without torch.
    """
    from slimgpt.checkpoint.locate import locate
    from slimgpt.checkpoint.onnx_export import is_onnx

    asked = Asked(**options)
    _check(asked)
    directory = locate(model)
    exported = is_onnx(directory)
    if exported and dtype != "auto":
        raise UsageError(
            f"--dtype {dtype}: the precision of an ONNX export is fixed; export it again with "
            "slimgpt export onnx --precision, and leave --dtype out"
        )
    if threads is not None and not exported:
        raise UsageError(
            f"--threads {threads} is for ONNX exports, and {model} is a checkpoint, which torch "
            "runs: set OMP_NUM_THREADS instead"
        )
    with _Shown(asked.prompt, silent=console.as_json) as shown:
        if exported:
            outcome = _by_onnxruntime(directory, asked, threads, shown.add)
        else:
            from slimgpt.commands.generate_torch import by_transformers

            outcome = by_transformers(directory, asked, dtype, shown.add)
    if console.as_json:
        console.result(
            {
                "prompt": asked.prompt,
                "text": outcome.text,
                "tokens": outcome.tokens,
                "seconds": outcome.seconds,
                "engine": outcome.engine,
                "provider": outcome.provider,
                "finish_reason": outcome.finish_reason,
            },
            "",
        )
    console.message(
        f"{outcome.tokens} tokens in {outcome.seconds:.2f} s "
        f"({outcome.tokens / outcome.seconds:.0f} a second) by {outcome.engine} on "
        f"{outcome.provider}{_cut_short(outcome, asked)}"
    )


def _cut_short(outcome: Outcome, asked: Asked) -> str:
    ended = outcome.finish_reason == "length" and outcome.tokens < asked.max_new_tokens
    return ": there the model's context ends" if ended else ""


def _check(asked: Asked) -> None:
    for name in ("temperature", "repetition_penalty"):
        value = getattr(asked, name)
        if not isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')} {value}: give a number, like 0.7")
    if not all(asked.stops):
        raise UsageError("--stop '': give at least one character")


class _Shown:
    """Text on stdout as it comes; nothing before the first piece, so that errors stand alone."""

    def __init__(self, prompt: str, *, silent: bool) -> None:
        self._prompt, self._silent, self._begun = prompt, silent, False

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Ends the line, where one was begun or ought to have been."""
        if not self._silent and (self._begun or failure is None):
            click.echo(self._prompt)

    def add(self, piece: str) -> None:
        if not self._silent:
            click.echo(self._prompt + piece, nl=False)
            self._prompt, self._begun = "", True


def _by_onnxruntime(directory: Path, asked: Asked, threads: int | None, on_text: OnText) -> Outcome:
    """Completes the prompt without torch."""
    from slimgpt.tokenizer import require_in_vocabulary

    runtime = {
        name: importlib.import_module(f"{_RUNTIME}.{name}")
        for name in ("artefact", "generator", "sampling", "session", "tokens")
    }
    artefact = runtime["artefact"].read_artefact(directory)
    tokenizer = runtime["tokens"].load_tokenizer(directory)
    ids = tokenizer.encode(asked.prompt)
    require_in_vocabulary(ids, artefact.vocabulary, "PROMPT")
    capacity = min(artefact.context_length, len(ids) + asked.max_new_tokens)
    session = runtime["session"].open_session(artefact, device=asked.device, threads=threads)
    sampling = runtime["sampling"].SamplingOptions(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        repetition_penalty=asked.repetition_penalty,
        seed=asked.seed,
    )
    started = time.monotonic()
    [completion] = runtime["generator"].generate(
        runtime["generator"].runner_of(session, capacity, 1),
        tokenizer,
        [ids],
        sampling,
        max_new_tokens=asked.max_new_tokens,
        eos=artefact.eos,
        stops=asked.stops,
        on_text=lambda _, piece: on_text(piece),
    )
    seconds = time.monotonic() - started
    count, reason = len(completion.tokens), completion.finish_reason
    return Outcome(completion.text, count, reason, seconds, "onnxruntime", session.provider)
