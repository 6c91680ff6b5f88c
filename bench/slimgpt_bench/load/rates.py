"""Answers a second of a level, and their interval.

An open loop's are counted within the measured part, whenever they were asked for: in a steady state
as many come in at its beginning as go out at its end, and a server that lags behind is not credited
with what it does later. A trace has no such state: it is counted until its last answer. A closed
loop's follow from Little's law (places = rate x time): its requests come and go in step, so that a
count would be off by as many as there are places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from slimgpt_bench.intervals import Interval, mean_interval
from slimgpt_bench.load.record import Record
from slimgpt_bench.load.steady import SLICES
from slimgpt_bench.load.window import Run

Good = Callable[[Record], bool]


@dataclass(frozen=True, slots=True)
class Rates:
    """What a level gave, a second.

    Attributes:
        answers: requests that were answered.
        tokens: of these answers.
        good: requests that met every bound of the SLO; without one, as ``answers``.
        good_interval: 95 %; None for too few.
    """

    answers: float
    tokens: float
    good: float
    good_interval: Interval | None


def window_s(run: Run) -> float:
    """Seconds of the measured part; of one request's, its own."""
    found = run.end - run.begin
    if found > 0:
        return found
    last = max([x.ended for x in run.records if x.ended is not None], default=run.begin)
    # A client that gave up in its warm-up has nothing behind the beginning.
    return last - run.begin if last > run.begin else 1.0


def counted(run: Run, good: Good) -> Rates:
    """Of an open loop."""
    end = run.begin + window_s(run)
    if run.to_the_end:
        end = max([end, *(x.ended for x in run.records if x.ok and x.ended is not None)])
    seconds = end - run.begin
    ok = [x for x in run.records if x.ok and run.begin < (x.ended or 0.0) <= end]
    times = [x.ended or 0.0 for x in ok if good(x)]
    parts, _ = np.histogram(times, bins=SLICES, range=(run.begin, end))
    interval = None
    if len(times) >= SLICES:
        interval = _positive(mean_interval((parts * SLICES / seconds).tolist()))
    tokens = sum(x.tokens for x in ok)
    return Rates(len(ok) / seconds, tokens / seconds, len(times) / seconds, interval)


def by_littles_law(run: Run, places: int, good: Good) -> Rates:
    """Of a closed loop with so many places."""
    records = [x for x in run.measured() if x.ended is not None]
    busy = sum(x.e2e_s for x in records)
    if not busy:
        return Rates(0.0, 0.0, 0.0, None)
    ok = [x for x in records if x.ok]
    met = [x for x in ok if good(x)]
    each = places / busy
    return Rates(
        each * len(ok),
        each * sum(x.tokens for x in ok),
        each * len(met),
        _spread(records, places, good),
    )


def _spread(records: Sequence[Record], places: int, good: Good) -> Interval | None:
    """From equal parts of the requests, one after the other."""
    if len(records) < 2 * SLICES:
        return None
    rates = []
    for part in np.array_split(np.arange(len(records)), SLICES):
        chosen = [records[i] for i in part]
        busy = sum(x.e2e_s for x in chosen)
        rates.append(places * sum(x.ok and good(x) for x in chosen) / busy)
    return _positive(mean_interval(rates))


def _positive(interval: Interval | None) -> Interval | None:
    return (max(0.0, interval[0]), interval[1]) if interval else None
