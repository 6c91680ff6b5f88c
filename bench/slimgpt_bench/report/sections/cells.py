"""Values that several sections show in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt_bench.intervals import INSUFFICIENT
from slimgpt_bench.report.blocks import Cell, Mark
from slimgpt_bench.report.told import ONE, Unit, interval, number

VERDICTS: Mapping[str, Mark] = {
    "faster": "good",
    "slower": "bad",
    "no difference": "quiet",
    "unresolved": "unsure",
}
NAMES = {
    "prefill_s": "Prefill",
    "ttft_s": "Time to first token",
    "tpot_s": "Time per output token",
    "itl_s": "Inter-token latency",
    "e2e_s": "End to end",
    "decode_tokens_per_s": "Decode speed",
}
SHORT = {
    "prefill_s": "prefill",
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "ITL",
    "e2e_s": "end to end",
    "decode_tokens_per_s": "decode",
}


def quantity(value: Mapping[str, Any], unit: Unit = ONE) -> Cell:
    """A median and its interval."""
    return Cell(scaled(value["median"], unit), interval(value["interval"], unit))


def scaled(value: Any, unit: Unit = ONE) -> str:
    """A number in a unit, or why there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return number(value)
    return number(value / unit.size if unit.size != 1 else value)


def percentile(value: Mapping[str, Any], name: str, unit: Unit = ONE) -> Cell:
    """A percentile and its interval; ``insufficient`` stands for too few samples."""
    if value[name] == INSUFFICIENT:
        return Cell(INSUFFICIENT, mark="quiet")
    return Cell(scaled(value[name], unit), interval(value.get(f"{name}_interval"), unit))


def ends(value: Any) -> tuple[float, float] | None:
    """An interval for a drawing; None where there is none."""
    return (value[0], value[1]) if isinstance(value, list | tuple) else None


def place(cell: Mapping[str, Any]) -> str:
    """Batch, prompt and output in short."""
    return f"{cell['batch']} × {cell['prompt_tokens']:,} → {cell['output_tokens']:,}"


def status(entry: Mapping[str, Any]) -> Cell:
    """Whether a cell, a level or a run holds."""
    return Cell("valid", mark="quiet") if entry["valid"] else Cell("not valid", mark="bad")


def machine(document: Mapping[str, Any]) -> str:
    """Where something was measured, in a few words."""
    told = document["environment"]
    gpus = told.get("gpus")
    if gpus and isinstance(gpus, Sequence) and isinstance(gpus[0], Mapping):
        return f"{len(gpus)} × {gpus[0].get('name')}"
    cores = told.get("cores")
    cpu = told.get("cpu") or told.get("device") or "an unknown machine"
    return f"{cpu}, {cores} cores" if cores else str(cpu)
