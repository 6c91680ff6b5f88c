"""From values to places on a drawing, and the values that an axis names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LOG_ABOVE = 30.0
"""Largest over smallest value from which an axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis.

    Attributes:
        low: value at ``start``.
        high: value at ``end``.
        start: place in pixels.
        end: likewise.
        logarithmic: equal distances are equal ratios.
        ticks: values that are named.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """The place of a value."""
        low, high, x = self.low, self.high, value
        if self.logarithmic:
            low, high, x = math.log(low), math.log(high), math.log(max(value, self.low))
        part = (x - low) / (high - low)
        return round(self.start + min(max(part, -0.02), 1.02) * (self.end - self.start), 1)

    def label(self, tick: float) -> str:
        """A tick with as many digits as it needs.

        >>> Scale(0, 1, 0, 1, False, ()).label(0.25)
        '0.25'
        """
        return f"{tick:,.10g}" if abs(tick) < 10_000 else f"{tick / 1000:,.10g}k"


def linear(values: Sequence[float], start: float, end: float, *, zero: bool = False) -> Scale:
    """An axis over values, with round ends.

    Args:
        values: all that must fit.
        start: place of the low end.
        end: place of the high end.
        zero: begins at zero, as bars must.
    """
    low, high = min(values), max(values)
    low = min(low, 0.0) if zero else low
    if high - low < 1e-12 * max(abs(high), 1e-12):
        pad = abs(high) * 0.1 or 1.0
        low, high = (low if zero else low - pad), high + pad
    step = _step(high - low)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, False, ticks)


def fitting(values: Sequence[float], start: float, end: float) -> Scale:
    """A logarithmic axis for values that are far apart, else a linear one from zero."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < _LOG_ABOVE:
        return linear(values, start, end, zero=True)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**i for i in range(first, last + 1)]
    ticks = [x * p for p in powers for x in ((1, 2, 5) if len(powers) < 4 else (1,))]
    below = max((t for t in ticks if t <= low), default=low)
    above = min((t for t in ticks if t >= high), default=high)
    return Scale(below, above, start, end, True, tuple(t for t in ticks if below <= t <= above))


def _step(span: float) -> float:
    """A round step that makes four to eight ticks."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(s * power for s in _STEPS if s * power >= rough * 0.999)
