"""The open loop by itself: what is cut off before it began is neither lost nor warned of."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Iterator

import pytest

from slimgpt_bench.load.open_loop import open_loop
from slimgpt_bench.load.options import Warmup
from slimgpt_bench.load.record import Record
from slimgpt_bench.load.window import Run, Window
from slimgpt_bench.workload.workload import Request

WINDOW = Window(Warmup(0), 0.2, None, drain_s=0.0)


def _requests(rate: float) -> Iterator[Request]:
    for index in range(100_000):
        yield Request(index, index / rate, [1], 1, 1)


async def _never(request: Request, record: Record) -> None:
    record.sent = time.perf_counter()
    await asyncio.sleep(3600)


@pytest.mark.parametrize("cap", [None, 1])
def test_requests_that_are_cut_off_before_they_begin_are_cancelled_ones(cap):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The drain has no patience, so that the last ones have not had a turn.
        run = asyncio.run(open_loop(_requests(2_000), _never, WINDOW, lambda _: None, cap))
        gc.collect()
    assert len(run.measured()) > 10
    assert {x.failure for x in run.records} == {"cancelled"}
    assert all(x.ended is not None for x in run.records)


def test_a_fault_of_ours_ends_the_loop_without_coroutines_that_never_began():
    async def breaks(request: Request, record: Record) -> None:
        raise ZeroDivisionError

    async def go() -> Run:
        return await open_loop(_requests(2_000), breaks, WINDOW, lambda _: None)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ExceptionGroup):
            asyncio.run(go())
        gc.collect()
