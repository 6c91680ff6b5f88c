"""The closed loop: so many requests are under way, and the next is sent when one ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress

from slimgpt_bench.load.record import Phase
from slimgpt_bench.load.window import Run, Send, Tell, Window, give_up, record_of, watched
from slimgpt_bench.workload.workload import Request


async def closed_loop(
    requests: Iterator[Request], send: Send, window: Window, tell: Tell, places: int
) -> Run:
    """Runs a level.

    Args:
        requests: without times.
        send: of a request.
        window: of the level; its warm-up is at least one request for each place, since those are
            sent together.
        tell: is given each measured record that has ended.
        places: requests under way.
    """
    run = Run()
    state = _State(run, window, places)

    async def worker() -> None:
        while (phase := state.next_phase()) is not None:
            request = next(requests)
            record = record_of(request, phase, time.perf_counter())
            record.released = record.scheduled
            run.records.append(record)
            state.under_way += phase == "measured"
            try:
                await send(request, record)
            except asyncio.CancelledError:
                give_up(record)
                raise
            finally:
                state.under_way -= phase == "measured"
                if phase == "measured":
                    tell(record)
                state.changed.set()

    async with watched(run), asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(worker()) for _ in range(places)]
        await state.over()
        for task in workers:
            task.cancel()
    return run


class _State:
    """What part of its level the loop is in."""

    def __init__(self, run: Run, window: Window, places: int) -> None:
        self._run, self._window = run, window
        self._warmup = max(window.warmup.requests, places)
        self._warm_until = time.perf_counter() + window.warmup.seconds
        self._begun = self._sent = 0
        self._ended = False
        self.under_way = 0
        self.changed = asyncio.Event()

    def next_phase(self) -> Phase | None:
        """What the next request counts as; None where there is nothing to send."""
        now = time.perf_counter()
        if self._begun < self._warmup or now < self._warm_until:
            self._begun += 1
            return "warmup"
        if not self._sent:
            self._run.begin = now
        if not self._over(now):
            self._sent += 1
            self._run.end = now
            return "measured"
        if not self._ended:
            self._ended = True
            if self._window.requests is None and self._window.duration_s:
                self._run.end = self._run.begin + self._window.duration_s
        return "cooldown" if self._window.cooldown and self.under_way else None

    def _over(self, now: float) -> bool:
        if self._window.requests is not None:
            return self._sent >= self._window.requests
        return now > self._run.begin + (self._window.duration_s or 0.0)

    async def over(self) -> None:
        """Returns when all measured requests are answered, or the patience is at its end."""
        deadline: float | None = None
        while not (self._ended and not self.under_way):
            self.changed.clear()
            if self._ended and deadline is None:
                deadline = time.perf_counter() + self._window.drain_s
            wait = None if deadline is None else deadline - time.perf_counter()
            if wait is not None and wait <= 0:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), wait)
