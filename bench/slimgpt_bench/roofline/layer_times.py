"""Seconds of every decoder layer of a running model.

Hooks around each layer make a pass slower, so these passes are apart from those of the headline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class LayerTimesOptions:
    """What is run.

    Attributes:
        batch: sequences.
        prompt_tokens: read at once.
        steps: decode steps after them.
        trials: passes; the first of them is thrown away.
        device: ``cpu`` or ``cuda[:i]``.
        dtype: as torch spells it.
        threads: of torch; None leaves it.
        seed: of the prompts.
    """

    batch: int
    prompt_tokens: int
    steps: int = 8
    trials: int = 6
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Medians over trials, in seconds, one a layer."""

    prefill: tuple[float, ...]
    decode: tuple[float, ...]


class _Clock:
    """Marks on the device's own time line: events of a GPU, the wall clock elsewhere."""

    def __init__(self, device: str) -> None:
        import torch

        self._torch, self._on_gpu = torch, device.startswith("cuda")

    def mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def settle(self) -> None:
        if self._on_gpu:
            self._torch.cuda.synchronize()

    def between(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end) / 1000 if self._on_gpu else end - start)


def measure_layers(model: Path, options: LayerTimesOptions) -> LayerTimes:
    """Runs a checkpoint in this process.

    Raises:
        SlimGPTError: as :func:`slimgpt.loading.load_model`.
    """
    import torch

    from slimgpt.loading import load_model

    if options.threads:
        torch.set_num_threads(options.threads)
    loaded, meta = load_model(model, device=options.device, dtype=options.dtype)
    clock = _Clock(options.device)
    marks: list[list[tuple[Any, Any]]] = [[] for _ in loaded.model.layers]
    for layer, record in zip(loaded.model.layers, marks, strict=True):
        _hook(layer, record, clock)
    made = torch.Generator().manual_seed(options.seed)
    shape = (options.batch, options.prompt_tokens + options.steps)
    ids = torch.randint(meta.shape.vocab_size, shape, generator=made).to(options.device)
    first: list[list[float]] = []
    later: list[list[float]] = []
    for trial in range(options.trials + 1):
        times = _trial(loaded, ids, options.prompt_tokens, marks, clock)
        if trial:
            first.append([x[0] for x in times])
            later += [list(step) for step in zip(*(x[1:] for x in times), strict=True)]
    return LayerTimes(_medians(first), _medians(later))


def _medians(passes: list[list[float]]) -> tuple[float, ...]:
    return tuple(median(x) for x in zip(*passes, strict=True))


def _hook(layer: Any, record: list[tuple[Any, Any]], clock: _Clock) -> None:
    started: list[Any] = []

    def before(*_: Any) -> None:
        started.append(clock.mark())

    def after(*_: Any) -> None:
        record.append((started.pop(), clock.mark()))

    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)


def _trial(
    model: Any, ids: Any, prompt: int, marks: list[list[tuple[Any, Any]]], clock: _Clock
) -> list[list[float]]:
    """Seconds of each layer: of the prompt, and then of every step."""
    import torch
    from transformers import DynamicCache

    for record in marks:
        record.clear()
    cache, seen = DynamicCache(), 0
    options: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    read: Callable[..., Any] = model
    with torch.inference_mode():
        for piece in (ids[:, :prompt], *ids[:, prompt:].split(1, dim=1)):
            places = torch.arange(seen, seen + piece.shape[1], device=ids.device)[None]
            read(piece, position_ids=places, **options)
            seen += piece.shape[1]
    clock.settle()
    return [[clock.between(*pair) for pair in record] for record in marks]
