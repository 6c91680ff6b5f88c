"""Confidence intervals, and what may be said of a ratio that has one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np

INSUFFICIENT: Literal["insufficient"] = "insufficient"
"""Stands where a number would, for want of samples."""

FEWEST = 3
"""Rounds for an interval: from two, Student's factor is 12.7."""

SAME = 0.02
"""A ratio whose whole interval is within this of 1 is no difference that anyone would pay for."""

_LEVEL = 0.95

Interval = tuple[float, float]
Verdict = Literal["faster", "slower", "no difference", "unresolved"]


@cache
def student_factor(degrees: int) -> float:
    """Student's t with ``degrees`` of freedom: 95 % of it lies within this of zero.

    With t = sqrt(degrees) tan(a) its density becomes cos(a)^(degrees - 1), which is integrated
    numerically.
    """
    angle = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angle) ** (degrees - 1)
    below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(_LEVEL, below / below[-1], angle)))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean of independent values; None for fewer than three."""
    if len(values) < FEWEST:
        return None
    middle = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = student_factor(len(values) - 1) * error
    return middle - reach, middle + reach


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, Interval | None]:
    """Geometric mean of ``above / below`` over rounds, and its 95 % interval.

    Each round has one of each, so that what slows a round slows both: the interval is Student's,
    of the logarithms.
    """
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    interval = mean_interval(logs)
    return math.exp(statistics.fmean(logs)), (
        (math.exp(interval[0]), math.exp(interval[1])) if interval else None
    )


def share_interval(parts: Sequence[int], wholes: Sequence[int]) -> Interval | None:
    """95 % interval of sum(parts) / sum(wholes) over groups that belong together, within [0, 1].

    Tokens of one answer are not independent, so whole groups are what varies: Student's interval of
    their residuals (the ratio estimator of survey sampling). Resampling so few would be too narrow.
    """
    if len(parts) < FEWEST or not sum(wholes):
        return None
    share = sum(parts) / sum(wholes)
    residuals = [part - share * whole for part, whole in zip(parts, wholes, strict=True)]
    low, high = mean_interval(residuals) or (0.0, 0.0)
    reach = (high - low) / 2 / statistics.fmean(wholes)
    return max(0.0, share - reach), min(1.0, share + reach)


def verdict(interval: Interval | None) -> Verdict:
    """What a ratio of speeds says, by its interval alone."""
    if interval is None:
        return "unresolved"
    low, high = interval
    if low >= 1 - SAME and high <= 1 + SAME:
        return "no difference"
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "unresolved"
