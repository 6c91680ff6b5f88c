"""One level: its warm-up, its measured part and its cool-down, and what a run of it gives.

The three follow each other without a gap: the measured part neither begins on an idle server nor
ends on one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from slimgpt_bench.load.health import Health, undisturbed
from slimgpt_bench.load.options import Warmup
from slimgpt_bench.load.record import Phase, Record
from slimgpt_bench.workload.workload import Request

_COOLDOWN_SHARE = 0.25
_LEAST_COOLDOWN_S = 2.0

Send = Callable[[Request, Record], Awaitable[None]]
"""Sends a request and fills in its record; failures are written there, and not raised."""
Tell = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Window:
    """How long a level is.

    Attributes:
        warmup: before the measured part.
        duration_s: of the measured part; None for as long as the requests last.
        requests: most measured ones, whatever the duration; None for as many as come.
        drain_s: how long answers are waited for at the end.
        cooldown: whether the load goes on until the measured requests are answered.
    """

    warmup: Warmup
    duration_s: float | None
    requests: int | None
    drain_s: float
    cooldown: bool = True

    @property
    def cooldown_s(self) -> float:
        """Longest cool-down: on an overloaded server the answers may never come."""
        return max(_LEAST_COOLDOWN_S, _COOLDOWN_SHARE * (self.duration_s or 0.0))


@dataclass(slots=True)
class Run:
    """What a level gave. Times are of ``time.perf_counter``.

    Attributes:
        records: in order of their schedule.
        begin: of the measured part.
        end: of it: nothing that was scheduled later counts.
        health: of the client.
        hopeless: the client was so late that it gave up.
        to_the_end: the load is not kept up until the last answer, as of a trace: rates are of the
            time to the last answer, for within the arrivals alone the last answers would be missed.
    """

    records: list[Record] = field(default_factory=list)
    begin: float = 0.0
    end: float = 0.0
    health: Health = field(default_factory=Health)
    hopeless: bool = False
    to_the_end: bool = False

    def measured(self) -> list[Record]:
        return [record for record in self.records if record.phase == "measured"]


def record_of(request: Request, phase: Phase, due: float) -> Record:
    """An empty record of a request that is due."""
    return Record(request.index, phase, request.prompt_tokens, request.output_tokens, due)


def give_up(record: Record) -> None:
    """Marks a request that will never be answered because the run ends."""
    if record.failure is None:
        record.failure, record.detail = "cancelled", "not sent when the run ended"
        record.ended = time.perf_counter()


@asynccontextmanager
async def watched(run: Run) -> AsyncIterator[None]:
    """Watches the client while a level runs, and keeps the garbage collector out."""
    with undisturbed():
        watching = asyncio.ensure_future(run.health.watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
