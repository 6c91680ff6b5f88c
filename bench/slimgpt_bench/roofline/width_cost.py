"""What a width costs on this device: its matrix products timed beside those of an aligned one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from slimgpt_bench.intervals import Interval, Verdict, paired_ratio, verdict

ROUNDS = 8
_LEAST_S = 2e-3
"""Of one timed piece: shorter ones are lost in the clock and in what starts a kernel."""
_MOST_BYTES = 256 * 2**20
"""Of copies of the weights: beyond that no cache holds them anyway."""


@dataclass(frozen=True, slots=True)
class WidthCost:
    """A feed-forward block at its width beside the same block at another.

    Attributes:
        width: neurons that it has.
        aligned: neurons of the other.
        rows: tokens that are read at once.
        ratio: the time at ``width`` over the time at ``aligned``.
        interval: 95 %, of the ratio.
        verdict: of ``aligned`` against ``width``.
    """

    width: int
    aligned: int
    rows: int
    ratio: float
    interval: Interval | None
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"interval": list(self.interval) if self.interval else None}


@dataclass(frozen=True, slots=True)
class WidthCostOptions:
    """What is timed.

    Attributes:
        hidden: width of the residual stream.
        width: neurons that the block has.
        aligned: neurons to compare with.
        rows: tokens that are read at once.
        layers: of the model.
        device: ``cpu`` or ``cuda[:i]``.
        dtype: as torch spells it.
        threads: of torch; None leaves it.
        rounds: of the interval.
    """

    hidden: int
    width: int
    aligned: int
    rows: int
    layers: int
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    rounds: int = ROUNDS


def measure_width(options: WidthCostOptions) -> WidthCost:
    """Times gate, up and down products at two widths in this process, each round as A/B/B/A.

    As many copies of the weights take turns as the model has layers, so that caches hold no more of
    them than they would of the model's.
    """
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    width, aligned = options.width, options.aligned
    copies = _copies(options)
    first, second = _Block(options, width, copies), _Block(options, aligned, copies)
    repeats = max(first.repeats(), second.repeats())
    above, below = [], []
    for _ in range(options.rounds):
        times = [x.seconds(repeats) for x in (first, second, second, first)]
        above.append(times[0] + times[3])
        below.append(times[1] + times[2])
    ratio, interval = paired_ratio(above, below)
    return WidthCost(width, aligned, options.rows, ratio, interval, verdict(interval))


def _copies(options: WidthCostOptions) -> int:
    """The same number of both blocks: a pass of one takes all of them."""
    import torch

    kind: torch.dtype = getattr(torch, options.dtype)
    size = 3 * options.hidden * max(options.width, options.aligned) * kind.itemsize
    return max(1, min(options.layers, _MOST_BYTES // size))


class _Block:
    """The products of one feed-forward block, of several layers in turn."""

    def __init__(self, options: WidthCostOptions, width: int, copies: int) -> None:
        import torch

        kind, hidden = getattr(torch, options.dtype), options.hidden
        made = torch.Generator().manual_seed(0)

        def matrix(*shape: int) -> Any:
            return torch.randn(shape, generator=made).to(options.device, kind)

        self._torch, self._device = torch, options.device
        self._input = matrix(options.rows, hidden)
        self._layers = [(matrix(2 * width, hidden), matrix(hidden, width)) for _ in range(copies)]

    def _forward(self) -> None:
        multiply = self._torch.nn.functional.linear
        with self._torch.inference_mode():
            for both, down in self._layers:
                gate, up = multiply(self._input, both).chunk(2, dim=-1)
                multiply(gate * up, down)

    def repeats(self) -> int:
        """Passes that fill the shortest piece that can be timed; the first ones warm up."""
        for _ in range(3):
            self._forward()
        return max(1, ceil(_LEAST_S / max(self.seconds(1), 1e-9)))

    def seconds(self, repeats: int) -> float:
        """Time of that many passes."""
        if self._device.startswith("cuda"):
            return self._cuda_seconds(repeats)
        return _timed(self._forward, repeats)

    def _cuda_seconds(self, repeats: int) -> float:
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        with self._torch.cuda.device(self._device):
            start.record()
            for _ in range(repeats):
                self._forward()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def _timed(work: Callable[[], None], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return time.perf_counter() - started
