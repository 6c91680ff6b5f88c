"""What a speed gate of a recipe is about: the core calls this by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.errors import Unresolved
from slimgpt.progress import Progress
from slimgpt_bench.compare.job import CompareOptions, compare
from slimgpt_bench.intervals import INSUFFICIENT
from slimgpt_bench.latency import Cell, LatencyOptions
from slimgpt_bench.latency.job import read_model


def check(dense: Path, gate: Mapping[str, Any], device: str, dtype: str) -> None:
    """Refuses what can't be measured here; nothing is run.

    Args:
        dense: the model.
        gate: the recipe's section.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: to compute in.

    Raises:
        SlimGPTError: as ``slimgpt bench compare`` would refuse it.
    """
    read_model(dense, _options(gate, device, dtype, 0).latency)


def measure(
    dense: Path,
    candidate: Path,
    gate: Mapping[str, Any],
    *,
    device: str,
    dtype: str,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Runs both models in turn.

    Returns:
        ``gate``, ``ratio``, ``interval``, ``verdict``, both digests and the medians; or ``gate``
        and ``why`` where nothing can be said.

    Raises:
        SlimGPTError: as an engine refuses its model, or died.
    """
    told: dict[str, Any] = {"gate": dict(gate)}
    try:
        found = compare(dense, candidate, _options(gate, device, dtype, seed), progress).document
    except Unresolved as reason:
        return told | {"why": str(reason)}
    if not found["valid"]:
        return told | {"why": "; ".join(found["problems"])}
    ratio = found[gate["quantity"]]
    return told | {
        "ratio": None if ratio["ratio"] == INSUFFICIENT else ratio["ratio"],
        "interval": None if ratio["interval"] == INSUFFICIENT else ratio["interval"],
        "verdict": ratio["verdict"],
        **{f"{side}_s": ratio[side]["median"] for side in ("dense", "pruned")},
        **{f"{side}_digest": found[side]["digest"] for side in ("dense", "pruned")},
        "settings": found["settings"],
        "environment": found["environment"],
    }


def _options(gate: Mapping[str, Any], device: str, dtype: str, seed: int) -> CompareOptions:
    runs = LatencyOptions(
        gate["engine"],
        (Cell(gate["batch"], gate["prompt"], gate["output"]),),
        trials=gate["trials"],
        device=device,
        dtype=dtype,
        seed=seed,
    )
    return CompareOptions(runs, gate["rounds"], roofline=False, memory=False)
