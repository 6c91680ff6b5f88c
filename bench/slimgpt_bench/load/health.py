"""Whether the client kept up: how late its event loop was, and how busy its process."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_TICK_S = 0.02


@dataclass(slots=True)
class Health:
    """What was seen of the client itself during a level.

    Attributes:
        lags: seconds that the event loop was late each time it was looked at.
        cpu_s: processor time that the process took.
        wall_s: time that passed.
    """

    lags: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0

    @property
    def cpu_share(self) -> float:
        """Of one core, which is all that one event loop can use."""
        return self.cpu_s / self.wall_s if self.wall_s else 0.0

    async def watch(self) -> None:
        """Looks until it is cancelled."""
        started, used = time.perf_counter(), time.process_time()
        try:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(_TICK_S)
                now = time.perf_counter()
                self.lags.append(now - before - _TICK_S)
                self.cpu_s, self.wall_s = time.process_time() - used, now - started
        except asyncio.CancelledError:
            return


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection meanwhile: it stops the event loop for tens of milliseconds."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def allow_many_files() -> None:
    """Lets this process have as many connections as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
