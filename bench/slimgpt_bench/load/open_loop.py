"""The open loop: each request is sent when it is due, whatever became of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from slimgpt_bench.load.record import Phase, Record
from slimgpt_bench.load.window import Run, Send, Tell, Window, give_up, record_of, watched
from slimgpt_bench.workload.workload import Request

HOPELESS_S = 2.0
"""So late, the client can't make up for it: the level ends there."""
_HOPELESS_DRAIN_S = 5.0
_SOON_S = 0.05

_One = Callable[[Request, Record], Coroutine[Any, Any, None]]


async def open_loop(
    requests: Iterator[Request], send: Send, window: Window, tell: Tell, cap: int | None = None
) -> Run:
    """Runs a level.

    Args:
        requests: with times.
        send: of a request.
        window: of the level.
        tell: is given each measured record that has ended.
        cap: most requests under way; more wait in line, and their times run on.
    """
    places = asyncio.Semaphore(cap) if cap else None

    async def one(request: Request, record: Record) -> None:
        try:
            if places is None:
                await send(request, record)
            else:
                async with places:  # which keeps the order
                    await send(request, record)
        except asyncio.CancelledError:
            give_up(record)
        if record.phase == "measured":
            tell(record)

    run = Run(to_the_end=not window.cooldown)
    async with watched(run), asyncio.TaskGroup() as tasks:
        level = _Level(run, window, tasks)
        await level.sow(requests, one)
        await level.drain()
    for record in run.records:
        if record.ended is None:  # cut off before it had begun
            give_up(record)
    return run


class _Level:
    """The tasks of a level, and what part of it the clock is in."""

    def __init__(self, run: Run, window: Window, tasks: asyncio.TaskGroup) -> None:
        self._run, self._window, self._tasks = run, window, tasks
        self._measured: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[None]] = set()
        self._sent = 0

    async def sow(self, requests: Iterator[Request], one: _One) -> None:
        """Sends until the level is over or the client can't keep up."""
        start = time.perf_counter() + _SOON_S
        self._begin_at(start + self._window.warmup.seconds)
        for request in requests:
            due = start + (request.at_s or 0.0)
            phase = self._phase(due, request.index)
            if phase is None or (phase == "cooldown" and not await self._pending(due)):
                return
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            record = record_of(request, phase, due)
            record.released = time.perf_counter()
            self._run.records.append(record)
            self._start(one(request, record), phase)
            if record.late_s > HOPELESS_S:
                self._run.hopeless, self._run.end = True, min(self._run.end, record.scheduled)
                return

    def _start(self, sending: Coroutine[Any, Any, None], phase: Phase) -> None:
        kept = self._measured if phase == "measured" else self._others
        try:
            task = self._tasks.create_task(sending)
        except RuntimeError:  # the group is ending: Python would warn of what never began
            sending.close()
            raise
        kept.add(task)
        task.add_done_callback(kept.discard)

    def _begin_at(self, at: float) -> None:
        self._run.begin = at
        self._run.end = at + (self._window.duration_s or 0.0)

    def _phase(self, due: float, index: int) -> Phase | None:
        """What a request counts as; None ends the level."""
        window = self._window
        if index < window.warmup.requests or due < self._run.begin:
            # The time from one arrival to the next is random: the measured part begins right after
            # an arrival, which is not counted.
            self._begin_at(max(due, self._run.begin))
            return "warmup"
        if window.requests is not None:
            over = self._sent >= window.requests
        else:
            over = window.duration_s is not None and due > self._run.end
        if not over:
            self._sent += 1
            if window.requests is not None or window.duration_s is None:
                self._run.end = due
            return "measured"
        patient = due <= self._run.end + window.cooldown_s
        return "cooldown" if window.cooldown and patient else None

    async def _pending(self, due: float) -> bool:
        """Whether measured requests are still under way when the next one is due."""
        wait = due - time.perf_counter()
        if self._measured and wait > 0:
            await asyncio.wait(set(self._measured), timeout=wait)
        return bool(self._measured)

    async def drain(self) -> None:
        """Waits for measured requests; then the others are cut off."""
        if self._measured:
            patience = _HOPELESS_DRAIN_S if self._run.hopeless else self._window.drain_s
            await asyncio.wait(set(self._measured), timeout=patience)
        for task in self._measured | self._others:
            task.cancel()
