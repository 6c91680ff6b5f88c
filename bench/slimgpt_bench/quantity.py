"""A measured quantity: median, percentiles if there are enough samples, and intervals.

Values come in groups that belong together: a process, or a request. Groups are resampled, not
values, since what slows one token slows its neighbours too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slimgpt_bench.intervals import INSUFFICIENT, Interval, student_factor

CONFIDENCE = 0.95
_RESAMPLES, _AT_ONCE = 2000, 50
_BINS = 1024
_ROUNDING = 1e-6
"""Of counted values, which are whole."""
_FEWEST_GROUPS = 6
"""Groups for a bootstrap: the extremes of five hold the median with 93.75 % only."""
_QUANTILES = {"p95": 0.95, "p99": 0.99}

Counts = NDArray[np.int32]
"""Of values, (groups, values by rank)."""

Resample = Callable[[Counts], Iterator[Counts]]
"""From the counts of the groups to those of whole resamples, some at a time."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What was measured of one thing, in its unit.

    Attributes:
        median: of all values; NaN for no values.
        percentiles: ``p95`` and ``p99``; None without enough samples.
        interval: 95 % confidence interval of the median; None with too few groups.
        percentile_intervals: likewise, of each percentile that is there.
        n: values.
    """

    median: float
    percentiles: Mapping[str, float | None]
    interval: Interval | None
    n: int
    percentile_intervals: Mapping[str, Interval] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As INTERFACE.md has it, and ``p95_interval`` and ``p99_interval`` where they exist."""
        found: dict[str, Any] = {"median": self.median if self.n else INSUFFICIENT}
        found |= {k: INSUFFICIENT if v is None else v for k, v in self.percentiles.items()}
        found["interval"] = list(self.interval) if self.interval else INSUFFICIENT
        found |= {f"{k}_interval": list(v) for k, v in self.percentile_intervals.items()}
        return found | {"n": self.n}


def fewest(share: float, confidence: float = CONFIDENCE) -> int:
    """Samples that show, if none of them misses, that ``share`` of all meet a bound.

    The smallest n with share**n <= 1 - confidence, as in MLPerf's early stopping with no miss:
    59 for p95, 299 for p99.
    """
    return math.ceil(math.log(1 - confidence) / math.log(share))


def of_runs(
    runs: Sequence[Sequence[float]], *, seed: int = 0, units: int | None = None
) -> Quantity:
    """Of runs that are independent of each other, like fresh processes.

    Whole runs are resampled, with the levels of Hesterberg's expanded percentile interval (What
    Teachers Should Know about the Bootstrap, 2014, section 4.1), which are wider for few runs. For
    three to five runs the interval is Student's, of the logarithms of the runs' medians; for fewer
    there is none.

    Args:
        runs: values of each.
        seed: of the resampling.
        units: independent samples among the values, where they are fewer (requests of which each
            has many token gaps): what decides whether a percentile is told.
    """
    groups = [np.asarray(run, dtype=np.float64) for run in runs if len(run)]
    if len(groups) < _FEWEST_GROUPS:
        return _quantity(groups, None, units, interval=_student(groups))
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(groups), [1 / len(groups)] * len(groups), size=_RESAMPLES)
    return _quantity(groups, lambda counts: iter([weights @ counts]), units, level_of=len(groups))


def of_requests(requests: Sequence[Sequence[float]], *, seed: int = 0) -> Quantity:
    """Of the requests of one run, in the order in which they were sent.

    Neighbours share a queue, so blocks of about sqrt(n) requests are resampled (the circular block
    bootstrap of Politis and Romano, 1992), with expanded levels as in :func:`of_runs`. A percentile
    needs enough requests, not values.

    Args:
        requests: values of each; a request that has none counts as none.
        seed: of the resampling.
    """
    groups = [np.asarray(x, dtype=np.float64) for x in requests if len(x)]
    n = len(groups)
    if n < _FEWEST_GROUPS:
        return _quantity(groups, None, n)
    length = min(math.ceil(math.sqrt(n)), n // _FEWEST_GROUPS)
    resample = partial(_blocks, length, np.random.default_rng(seed))
    return _quantity(groups, resample, n, level_of=n // length)


def _blocks(length: int, rng: np.random.Generator, counts: Counts) -> Iterator[Counts]:
    """Totals of resamples made of circular blocks, some at a time: memory is that of ``counts``."""
    n = len(counts)
    around = np.concatenate([counts, counts[: length - 1]])
    before = np.concatenate([np.zeros_like(counts[:1]), np.cumsum(around, axis=0, dtype=np.int32)])
    block = before[length:] - before[:-length]
    for _ in range(0, _RESAMPLES, _AT_ONCE):
        starts = rng.integers(0, n, size=(_AT_ONCE, -(-n // length)))
        yield block[starts].sum(axis=1)


def _quantity(
    groups: list[NDArray[np.float64]],
    resample: Resample | None,
    units: int | None,
    *,
    interval: Interval | None = None,
    level_of: int = 0,
) -> Quantity:
    values = np.concatenate(groups) if groups else np.zeros(0)
    if not np.isfinite(values).all():
        raise ValueError("a measured value is not finite")
    enough = len(values) if units is None else min(units, len(values))
    told = {k: share for k, share in _QUANTILES.items() if enough >= fewest(share)}
    percentiles = {
        k: float(np.quantile(values, share)) if k in told else None
        for k, share in _QUANTILES.items()
    }
    median = float(np.median(values)) if len(values) else math.nan
    if resample is None:
        return Quantity(median, percentiles, interval, len(values))
    shares = {"median": 0.5, **told}
    ends = dict(zip(shares, _ends(groups, resample, list(shares.values()), level_of), strict=True))
    return Quantity(median, percentiles, ends.pop("median"), len(values), ends)


def _ends(
    groups: list[NDArray[np.float64]], resample: Resample, shares: list[float], level_of: int
) -> Iterator[Interval]:
    """Interval of each quantile: the quantile of every resample, and of these the tails."""
    edges, counts = _histogram(groups)
    found: list[list[NDArray[np.float64]]] = [[] for _ in shares]
    for totals in resample(counts):
        whole = np.cumsum(totals, axis=1)
        for values, share in zip(found, shares, strict=True):
            wanted = share * whole[:, -1:]
            # Where the share is met exactly, half of the way to the next value, as in a median: the
            # lower one alone would be too low each time, and whole groups often meet it exactly.
            reached = np.argmax(whole >= wanted - _ROUNDING, axis=1)
            passed = np.argmax(whole > wanted + _ROUNDING, axis=1)
            values.append((edges[reached] + edges[passed]) / 2)
    tail = _expanded_tail(level_of)
    for values in found:
        low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
        yield float(low), float(high)


def _histogram(groups: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], Counts]:
    """Values by rank: all of them, or so many that a quantile moves by a thousandth."""
    pooled = np.unique(np.concatenate(groups))
    if len(pooled) > _BINS:
        pooled = np.unique(np.quantile(pooled, np.linspace(0, 1, _BINS), method="higher"))
    counts = np.zeros((len(groups), len(pooled)), dtype=np.int32)
    for i, group in enumerate(groups):
        np.add.at(counts[i], np.searchsorted(pooled, group), 1)
    return pooled, counts


def _expanded_tail(groups: int) -> float:
    """Hesterberg's tail: the normal tail beyond Student's factor times sqrt(n / (n - 1))."""
    reach = student_factor(groups - 1) * math.sqrt(groups / (groups - 1))
    return math.erfc(reach / math.sqrt(2)) / 2


def _student(groups: list[NDArray[np.float64]]) -> Interval | None:
    """Of the logarithms of the medians, for three groups or more of positive values."""
    medians = [float(np.median(x)) for x in groups]
    if len(medians) < 3 or min(medians) <= 0:
        return None
    logs = np.log(medians)
    reach = student_factor(len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    middle = float(logs.mean())
    return math.exp(middle - reach), math.exp(middle + reach)


Resolution = Literal["met", "missed", "unresolved"]


@dataclass(frozen=True, slots=True)
class Share:
    """Part of all requests that something holds for.

    Attributes:
        value: point estimate.
        interval: 95 %, exact binomial at the effective number of requests.
        n: requests.
        effective_n: as many independent ones would tell as much.
    """

    value: float
    interval: Interval
    n: int
    effective_n: float

    def against(self, target: float) -> Resolution:
        """Whether the share is at least ``target``: met and missed only by the whole interval."""
        if self.interval[0] >= target:
            return "met"
        return "missed" if self.interval[1] < target else "unresolved"

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "interval": list(self.interval),
            "n": self.n,
            "effective_n": self.effective_n,
        }


def share_of(flags: Sequence[bool], confidence: float = CONFIDENCE) -> Share:
    """Share of requests, in the order in which they were sent, that something holds for.

    The interval is Clopper and Pearson's (1934, exact) for as many independent requests as the
    variance of means of blocks of sqrt(n) neighbours allows: misses that come in a row tell less.

    Raises:
        ValueError: no requests.
    """
    if not flags:
        raise ValueError("no requests")
    n, value = len(flags), sum(flags) / len(flags)
    effective = n / _design_effect(np.asarray(flags, dtype=np.float64))
    return Share(value, exact_interval(value * effective, effective, confidence), n, effective)


def _design_effect(flags: NDArray[np.float64]) -> float:
    """Variance of block means over what independent requests would have; at least 1."""
    length = math.isqrt(len(flags))
    blocks = len(flags) // length
    spread = float(flags.var())
    if blocks < _FEWEST_GROUPS or not spread:
        return 1.0
    means = flags[: blocks * length].reshape(blocks, length).mean(axis=1)
    return max(1.0, float(means.var(ddof=1)) * length / spread)


def exact_interval(successes: float, trials: float, confidence: float = CONFIDENCE) -> Interval:
    """Clopper-Pearson for a share; numbers need not be whole.

    The bounds are where the tails of the beta distribution are (1 - confidence) / 2, of its
    numerical integral. Less than half a success or failure counts as none, which is the wider.
    """
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = 0.0 if successes < _HALF else _beta_quantile(tail, successes, failures + 1)
    high = 1.0 if failures < _HALF else _beta_quantile(1 - tail, successes + 1, failures)
    return low, high


_HALF = 0.5
"""Below it the density has a pole, which no grid integrates."""


def _beta_quantile(share: float, a: float, b: float) -> float:
    # Substituting x = sin(t)^2 leaves a density without poles for a, b >= 1/2.
    middle = math.asin(math.sqrt(a / (a + b)))
    width = 12 / math.sqrt(a + b)
    angle = np.linspace(max(0.0, middle - width), min(math.pi / 2, middle + width), 40_001)
    with np.errstate(divide="ignore"):
        log = (2 * a - 1) * np.log(np.sin(angle)) + (2 * b - 1) * np.log(np.cos(angle))
    density = np.exp(log - log.max())
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.sin(np.interp(share, below / below[-1], angle)) ** 2)
