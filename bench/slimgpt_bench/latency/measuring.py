"""Trials of one cell on one engine: a check, a warm-up until times agree, then what counts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from slimgpt_bench.latency.cells import AGREED, WARMUP_TIMES, Cell, LatencyOptions, prompts_of
from slimgpt_bench.latency.protocol import TimedEngine
from slimgpt_bench.latency.trials import Times, Trials

_LAST = 3
"""Trials that have to agree."""

NOT_FINITE = "logits not finite"
NOT_TIMED = "no times"


def run_cell(engine: TimedEngine, cell: Cell, options: LatencyOptions, vocabulary: int) -> Trials:
    """All trials of a cell in this process."""
    prompts = prompts_of(cell, vocabulary, options.seed)
    engine.prepare(cell)
    if not engine.finite(prompts, cell.output_tokens):
        return Trials(cell, (), failed={NOT_FINITE: options.trials})
    warmup: list[float] = []
    while not warm(warmup, options.warmup):
        trial = engine.time(prompts, cell.output_tokens)
        if not _whole(trial, cell):  # those that would count are like it
            return Trials(cell, (), tuple(warmup), False, {NOT_TIMED: options.trials})
        warmup.append(trial.e2e_s)
    times = [engine.time(prompts, cell.output_tokens) for _ in range(options.trials)]
    good = tuple(x for x in times if _whole(x, cell))
    failed = {NOT_TIMED: len(times) - len(good)} if len(good) < len(times) else {}
    return Trials(cell, good, tuple(warmup), agree(warmup), failed)


def warm(seconds: Sequence[float], floor: int) -> bool:
    """Whether these trials are enough of a warm-up."""
    return len(seconds) >= floor and (agree(seconds) or len(seconds) >= WARMUP_TIMES * floor)


def agree(seconds: Sequence[float]) -> bool:
    """Whether the last trials are within a tenth of each other; true for no warm-up at all.

    Of two trials both have to agree; one alone agrees with nothing.
    """
    last = seconds[-_LAST:]
    if len(last) == 1:
        return False
    return not last or max(last) - min(last) <= AGREED * statistics.median(last)


def _whole(times: Times, cell: Cell) -> bool:
    numbers = (times.prefill_s, *times.token_s)
    return len(times.token_s) == cell.output_tokens and all(map(math.isfinite, numbers))
