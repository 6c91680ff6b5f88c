"""Whether a level held: does the time to the first token, or the line of requests, grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimgpt_bench.intervals import INSUFFICIENT, Interval, mean_interval, student_factor

SLICES = 10
"""Parts of a level: their means are nearly independent of each other, as single requests in one
line are not."""
FEWEST_EACH = 2
"""Requests of a part."""
GROWTH_SHARE = 0.05
"""Of the offered rate: a line that grows slower is lost in the ends of the window. Where a server
gets so much more than it can do, waits grow by this many seconds a second."""
OVERLOAD_SHARE = 0.05
"""Of all requests: more that are refused for load, or not answered in time, are saturation."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A change in time.

    Attributes:
        per_s: a second; None with too few requests.
        interval: 95 %, of it.
    """

    per_s: float | None = None
    interval: Interval | None = None

    @property
    def rises(self) -> bool:
        """Whether it is above zero with all of its interval."""
        return self.interval is not None and self.interval[0] > 0

    def to_json(self) -> dict[str, Any]:
        return {
            "per_s": INSUFFICIENT if self.per_s is None else self.per_s,
            "interval": list(self.interval) if self.interval else INSUFFICIENT,
        }


def slope(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Least-squares slope over the means of :data:`SLICES` equal parts, with Student's interval.

    Args:
        times: in order, in seconds.
        values: at these times.
    """
    if len(times) < SLICES * FEWEST_EACH:
        return Trend()
    xs = np.array([part.mean() for part in np.array_split(np.asarray(times), SLICES)])
    ys = np.array([part.mean() for part in np.array_split(np.asarray(values), SLICES)])
    spread = float(((xs - xs.mean()) ** 2).sum())
    if not spread:
        return Trend()
    found = float(((xs - xs.mean()) * (ys - ys.mean())).sum()) / spread
    rest = ys - ys.mean() - found * (xs - xs.mean())
    error = math.sqrt(float((rest**2).sum()) / (SLICES - 2) / spread)
    reach = student_factor(SLICES - 2) * error
    return Trend(found, (found - reach, found + reach))


def growth(begins: Sequence[float], ends: Sequence[float], begin: float, end: float) -> Trend:
    """Requests a second by which the line grows: change of those under way, part by part.

    Args:
        begins: when each request was scheduled.
        ends: when each ended; infinite for one that never did.
        begin: of the measured part.
        end: of it.
    """
    if len(begins) < SLICES * FEWEST_EACH or end <= begin:
        return Trend()
    marks = np.linspace(begin, end, SLICES + 1)
    came = np.searchsorted(np.sort(np.asarray(begins)), marks, side="right")
    gone = np.searchsorted(np.sort(np.asarray(ends)), marks, side="right")
    steps = np.diff(came - gone) / (end - begin) * SLICES
    return Trend(float(steps.mean()), mean_interval(steps.tolist()))


@dataclass(frozen=True, slots=True)
class Steadiness:
    """What of a level changed while it ran.

    Attributes:
        ttft: seconds a second.
        under_way: requests a second.
        overload: share of requests that were refused for load or not answered in time.
        saturated: more was offered than the server can do.
    """

    ttft: Trend
    under_way: Trend
    overload: float
    saturated: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "ttft_s": self.ttft.to_json(),
            "under_way": self.under_way.to_json(),
            "overload_share": self.overload,
        }


def judge(
    ttft: Trend,
    under_way: Trend,
    overload: float,
    *,
    rate: float,
    duration_s: float,
    typical_s: float,
) -> Steadiness:
    """Whether an open loop was beyond the server.

    Args:
        ttft: of time to first token.
        under_way: of requests under way.
        overload: share of requests that say so themselves.
        rate: offered, requests a second.
        duration_s: of the measured part.
        typical_s: median time to first token; NaN where there is none.
    """
    line_grows = under_way.rises and (under_way.per_s or 0) > GROWTH_SHARE * rate
    rise = ttft.per_s or 0
    waits_grow = ttft.rises and (rise > GROWTH_SHARE or rise * duration_s > typical_s)
    saturated = line_grows or waits_grow or overload > OVERLOAD_SHARE
    return Steadiness(ttft, under_way, overload, saturated)
