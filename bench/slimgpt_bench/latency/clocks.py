"""Clocks that mark moments of a trial: the host's, and a GPU's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from slimgpt_bench.decoders import Decoder
from slimgpt_bench.latency.trials import Times


class Clock(Protocol):
    """Marks moments, and tells them when the trial is over."""

    def start(self) -> None:
        """The prompts are handed over now."""

    def mark(self) -> None:
        """What was asked for until now is one moment."""

    def read(self) -> list[float]:
        """Seconds from the start to each mark."""


class HostClock:
    """time.perf_counter: right where the caller waits for each result."""

    def start(self) -> None:
        self._marks: list[float] = []
        self._started = time.perf_counter()

    def mark(self) -> None:
        self._marks.append(time.perf_counter())

    def read(self) -> list[float]:
        return [mark - self._started for mark in self._marks]


class CudaClock:
    """CUDA events: a moment is when the GPU gets there, and marking it does not make it wait."""

    def __init__(self, device: Any) -> None:
        import torch

        self._torch, self._device = torch, device

    def start(self) -> None:
        self._torch.cuda.synchronize(self._device)  # nothing from before is in the queue
        self._events: list[Any] = []
        self.mark()

    def mark(self) -> None:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._torch.cuda.current_stream(self._device))
        self._events.append(event)

    def read(self) -> list[float]:
        self._torch.cuda.synchronize(self._device)
        first, *later = self._events
        return [first.elapsed_time(event) / 1000 for event in later]


def timed(
    decoder: Decoder, clock: Clock, prompts: Sequence[Sequence[int]], output_tokens: int
) -> Times:
    """One trial: prompts are read, and every token is chosen and read in turn."""
    decoder.begin()
    clock.start()
    logits = decoder.prefill(prompts)
    clock.mark()
    tokens = decoder.choose(logits)
    clock.mark()
    for _ in range(output_tokens - 1):
        tokens = decoder.choose(decoder.step(tokens))
        clock.mark()
    prefill_s, *token_s = clock.read()
    return Times(prefill_s, tuple(token_s))


def finite(decoder: Decoder, prompts: Sequence[Sequence[int]], output_tokens: int) -> bool:
    """Whether all logits of a trial are numbers; greedy trials repeat each other."""
    decoder.begin()
    logits = decoder.prefill(prompts)
    good = decoder.finite(logits)
    for _ in range(output_tokens - 1):
        logits = decoder.step(decoder.choose(logits))
        good = decoder.finite(logits) and good
    return good
