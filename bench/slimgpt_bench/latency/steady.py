"""Whether times kept their level: over the trials of a run, and from run to run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimgpt_bench.intervals import FEWEST, INSUFFICIENT, Interval, mean_interval, student_factor
from slimgpt_bench.latency.trials import Trials

MOVED = 0.05
"""A median that a trend moves by more than this is not the level that later trials would have."""

_FEWEST_TRIALS = 4
_LARGEST = 50.0


@dataclass(frozen=True, slots=True)
class Trend:
    """Change of a time from the first to the last of a sequence, relative to its level.

    Attributes:
        change: 0.1 is ten percent slower at the end than at the start; NaN for too few values.
        interval: 95 %; None for too few values.
    """

    change: float
    interval: Interval | None

    @property
    def is_real(self) -> bool:
        """Whether the interval leaves out that nothing changes, and the median is moved by it.

        A line moves the median by half of what it changes.
        """
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return False
        return abs(math.log1p(self.change)) / 2 > math.log1p(MOVED)

    def to_json(self) -> dict[str, Any]:
        if math.isnan(self.change):
            return {"change": INSUFFICIENT, "interval": INSUFFICIENT}
        interval = list(self.interval) if self.interval else INSUFFICIENT
        return {"change": self.change, "interval": interval}


_UNKNOWN = Trend(math.nan, None)


@dataclass(frozen=True, slots=True)
class Steadiness:
    """Of one cell.

    Attributes:
        within: trend of end-to-end times over the trials of a run.
        between: trend of the runs' medians.
        unsettled_runs: whose warm-up ended before its trials agreed.
    """

    within: Trend
    between: Trend
    unsettled_runs: int

    def problems(self) -> list[str]:
        found = []
        for trend, where in (
            (self.within, "over the trials of a run"),
            (self.between, "from the first run to the last"),
        ):
            if trend.is_real and trend.interval:
                low, high = trend.interval
                found.append(
                    f"not steady: end-to-end time changes by {trend.change:+.0%} {where} (95 % "
                    f"{low:+.0%} to {high:+.0%}): give more --warmup, or let the machine rest"
                )
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "within_runs": self.within.to_json(),
            "between_runs": self.between.to_json(),
            "unsettled_warmups": self.unsettled_runs,
            "steady": not self.problems(),
        }


def steadiness(runs: Sequence[Trials]) -> Steadiness:
    """Of the runs of one cell, in the order in which they were made."""
    times = [run.of("e2e_s") for run in runs]
    medians = [statistics.median(x) for x in times if x]
    between = line(medians) if len(medians) > FEWEST else _UNKNOWN
    return Steadiness(_within(times), between, sum(not run.settled for run in runs))


def _within(runs: Sequence[Sequence[float]]) -> Trend:
    """The mean of the runs' changes: runs are independent, trials of one are not."""
    trends = [line(run) for run in runs if len(run) >= _FEWEST_TRIALS]
    if len(trends) <= 1:
        return trends[0] if trends else _UNKNOWN
    logs = [math.log1p(trend.change) for trend in trends]
    interval = mean_interval(logs)
    ends = (_change(interval[0]), _change(interval[1])) if interval else None
    return Trend(_change(statistics.fmean(logs)), ends)


def line(values: Sequence[float]) -> Trend:
    """The least-squares line through the logarithms of positive values in a row, three or more."""
    count, logs = len(values), np.log(values)
    place = np.arange(count) - (count - 1) / 2
    spread = float(place @ place)
    slope = float(place @ logs) / spread
    left = logs - logs.mean() - slope * place
    reach = student_factor(count - 2) * math.sqrt(float(left @ left) / (count - 2) / spread)
    low, middle, high = (_change((count - 1) * x) for x in (slope - reach, slope, slope + reach))
    return Trend(middle, (low, high))


def _change(log: float) -> float:
    """Relative change of a logarithm; from too few values it may be beyond any number."""
    return math.expm1(min(log, _LARGEST))
