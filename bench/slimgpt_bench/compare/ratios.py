"""Ratios of times: one for each block, and over all blocks their mean with its interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt_bench.compare.experiment import Experiment
from slimgpt_bench.compare.sides import DENSE, PRUNED, THIRD
from slimgpt_bench.intervals import INSUFFICIENT, Interval, Verdict, paired_ratio, verdict
from slimgpt_bench.latency import Cell, Trials
from slimgpt_bench.latency.document import quantity

QUANTITIES = ("prefill_s", "ttft_s", "tpot_s", "e2e_s")
HEADLINE = ("ttft_s", "tpot_s", "e2e_s")
"""What must be resolved; prefill is the larger part of the time to the first token."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of one model over that of another: above 1 the other is faster.

    Attributes:
        value: geometric mean over blocks; None without a time in every block.
        interval: 95 %; None for fewer than three blocks.
        verdict: of the other model.
    """

    value: float | None
    interval: Interval | None
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return {
            "ratio": INSUFFICIENT if self.value is None else self.value,
            "interval": list(self.interval) if self.interval else INSUFFICIENT,
            "verdict": self.verdict,
        }


def ratio_of(
    above: Sequence[Sequence[Sequence[float]]], below: Sequence[Sequence[Sequence[float]]]
) -> Ratio:
    """The ratio of two models.

    Each block has a value of each model: the geometric mean of its runs' medians. The logarithms of
    the blocks' ratios are independent, as every run was a process of its own.

    Args:
        above: values (blocks, runs, trials) of the model whose time is divided.
        below: of the other.
    """
    levels = [[_level(block) for block in model] for model in (above, below)]
    pairs = [(a, b) for a, b in zip(*levels, strict=True) if a is not None and b is not None]
    if not pairs or len(pairs) < len(above):
        return Ratio(None, None, "unresolved")
    value, interval = paired_ratio(*zip(*pairs, strict=True))
    return Ratio(value, interval, verdict(interval))


def _level(runs: Sequence[Sequence[float]]) -> float | None:
    """Of the runs of a block; None where one has no time that a ratio can be made of."""
    medians = [statistics.median(run) if run else 0.0 for run in runs]
    if not medians or min(medians) <= 0:
        return None
    return math.exp(statistics.fmean(map(math.log, medians)))


def cell_ratios(found: Experiment, cell: Cell, *, third: bool, seed: int) -> dict[str, Any]:
    """The entry of ``cells``: every quantity of a cell.

    Args:
        found: the runs.
        cell: of them.
        third: whether there is a third model.
        seed: of the resampling of each model's own interval.
    """
    return {
        **cell.to_json(),
        **{name: _entry(found, cell, name, third, seed) for name in QUANTITIES},
    }


def _entry(found: Experiment, cell: Cell, name: str, third: bool, seed: int) -> dict[str, Any]:
    def values(role: str) -> list[list[list[float]]]:
        return [[run.of(name) for run in block] for block in found.blocks(role, cell)]

    def of_model(role: str) -> dict[str, Any]:
        return quantity(found.of(role, cell), name, seed).to_json()

    entry = {
        **ratio_of(values(DENSE), values(PRUNED)).to_json(),
        "dense": of_model(DENSE),
        "pruned": of_model(PRUNED),
        "third": None,
    }
    if third:
        entry["third"] = {
            **ratio_of(values(DENSE), values(THIRD)).to_json(),
            "third": of_model(THIRD),
            "pruned_against_third": ratio_of(values(THIRD), values(PRUNED)).to_json(),
        }
    return entry


def expected(cell: Cell) -> tuple[str, ...]:
    """Headline quantities that a cell has: no time per output token for a single one."""
    return tuple(x for x in HEADLINE if x != "tpot_s" or cell.output_tokens > 1)


def failures(runs: Sequence[Trials]) -> dict[str, int]:
    """Trials that gave no times, by reason."""
    found: dict[str, int] = {}
    for run in runs:
        for reason, count in run.failed.items():
            found[reason] = found.get(reason, 0) + count
    return found
