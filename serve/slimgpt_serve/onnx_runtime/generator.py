"""Texts that go on from prompts: as many at once as there are slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from slimgpt.errors import UsageError
from slimgpt_serve.onnx_runtime.artefact import IN_PLACE
from slimgpt_serve.onnx_runtime.concatenated import ConcatenatedRunner
from slimgpt_serve.onnx_runtime.continuation import Continuation
from slimgpt_serve.onnx_runtime.runner import Logits, Runner
from slimgpt_serve.onnx_runtime.sampling import SamplingOptions
from slimgpt_serve.onnx_runtime.session import OnnxSession
from slimgpt_serve.onnx_runtime.tokens import Decoder


class Engine(Protocol):
    """What :class:`Runner` and :class:`ConcatenatedRunner` have in common."""

    capacity: int
    slots: int
    context_length: int

    def prefill(self, slot: int, tokens: Sequence[int], past: int = 0) -> Logits: ...

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Logits: ...

    def move(self, source: int, target: int, length: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Completion:
    """What followed a prompt.

    Attributes:
        text: without end token and stop string.
        tokens: generated, a last end token included.
        finish_reason: ``stop`` (an end token or a stop string) or ``length``.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str


def runner_of(session: OnnxSession, capacity: int, slots: int) -> Engine:
    """The runner for the kind of caches that an export has."""
    if session.artefact.cache == IN_PLACE:
        return Runner(session, capacity, slots)
    return ConcatenatedRunner(session, capacity)


def generate(
    runner: Engine,
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    *,
    max_new_tokens: int,
    eos: frozenset[int] = frozenset(),
    stops: Sequence[str] = (),
    on_text: Callable[[int, str], None] | None = None,
) -> list[Completion]:
    """What follows each prompt; prompts of any lengths run together.

    Args:
        runner: of the model.
        decoder: its tokenizer.
        prompts: tokens of each, at least one.
        options: of sampling; every prompt draws with the same seed, whatever runs beside it.
        max_new_tokens: at most, and as the capacity allows.
        eos: tokens that end a text.
        stops: strings that end a text.
        on_text: told the prompt's number and the text that is certain now.

    Raises:
        UsageError: a prompt is empty, or leaves no room for an answer.
        BadLogits: the model gives NaN or infinite values.
    """
    texts = [
        Continuation(
            prompt,
            options,
            max_new_tokens=min(max_new_tokens, _room(prompt, runner)),
            decoder=decoder,
            eos=eos,
            stops=stops,
        )
        for prompt in prompts
    ]
    numbers = {id(text): number for number, text in enumerate(texts)}

    def take(text: Continuation, logits: Logits) -> None:
        piece = text.take(logits)
        if piece and on_text:
            on_text(numbers[id(text)], piece)

    waiting, running = deque(texts), list[Continuation]()
    while waiting or running:
        while waiting and len(running) < runner.slots:
            text = waiting.popleft()
            take(text, runner.prefill(len(running), text.prompt))
            if not text.finish_reason:
                running.append(text)
        if running:
            logits = runner.decode([x.last for x in running], [x.cached for x in running])
            for text, row in zip(running, logits, strict=True):
                take(text, row)
            _close_ranks(runner, running)
    return [Completion(x.text, tuple(x.tokens), x.finish_reason or "length") for x in texts]


def _close_ranks(runner: Engine, running: list[Continuation]) -> None:
    """Takes finished texts out; the last ones move into their slots."""
    for slot in range(len(running) - 1, -1, -1):
        if running[slot].finish_reason:
            last = running.pop()
            if slot < len(running):
                runner.move(len(running), slot, last.cached)
                running[slot] = last


def _room(prompt: Sequence[int], runner: Engine) -> int:
    if not prompt:
        raise UsageError("PROMPT is empty: give some text to go on from")
    room = runner.capacity - len(prompt)
    if room < 1:
        raise UsageError(
            f"PROMPT has {len(prompt)} tokens, and the capacity is {runner.capacity} tokens of "
            f"prompt and answer together, within the model's context of {runner.context_length}: "
            "give a shorter one"
        )
    return room
