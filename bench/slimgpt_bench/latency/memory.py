"""Memory of a model on an engine: five kinds, each measured where it can be, never mixed.

``weights`` (files, and what the engine keeps of them), ``kv`` (bytes a token, tokens there is room
for), ``allocator`` (peaks of torch's), ``device`` (a GPU's, as its driver counts) and ``process``
(PSS and high-water mark of a process and its children). What can't be told is None, with a reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt_bench.latency.cells import Cell, LatencyOptions
from slimgpt_bench.latency.process import Worker

KINDS = ("weights", "kv", "allocator", "device", "process")


def measure_memory(
    directory: Path,
    options: LatencyOptions,
    *,
    file_bytes: int,
    name: str | None = None,
    vocabulary: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, dict[str, Any]]:
    """The document's ``memory``, from two fresh processes: one that loads, one that runs too.

    Args:
        directory: of the model.
        options: the cell of the largest batch times length is run, once.
        file_bytes: of the files that hold the weights.
        name: for messages.
        vocabulary: ids that prompts are drawn from; by default the model's.
        environ: of the processes.

    Raises:
        SlimGPTError: as the engine refuses the model, or died.
    """
    cell = largest(options.cells)

    def fresh() -> Worker:
        return Worker(directory, options, name=name, vocabulary=vocabulary, environ=environ)

    with fresh() as worker:
        loaded = worker.memory()
    with fresh() as worker:
        worker.forward(cell)
        found = worker.memory()
    loading = {k: loaded["process"][k] for k in ("pss_bytes", "high_water_bytes")}
    return {
        "weights": {"file_bytes": file_bytes, **_resident(loaded)},
        **{kind: found[kind] for kind in ("kv", "allocator", "device")},
        "process": {**found["process"], "loading": loading, "cell": cell.to_json()},
    }


def largest(cells: tuple[Cell, ...]) -> Cell:
    """The cell that holds most tokens at once."""
    return max(cells, key=lambda cell: cell.batch * cell.context)


def _resident(loaded: dict[str, Any]) -> dict[str, Any]:
    """What is kept of the weights: as the engine tells, else what loading added to the process."""
    told: dict[str, Any] = loaded["weights"]
    process, on_cpu = loaded["process"], loaded["device"]["total_bytes"] is None
    if told["resident_bytes"] is not None or "reason" in told:
        return told
    if not on_cpu or process["pss_bytes"] is None or process["baseline_bytes"] is None:
        return {"resident_bytes": None, "reason": "the engine does not tell"}
    return {
        "resident_bytes": process["pss_bytes"] - process["baseline_bytes"],
        "resident_source": "what loading added to the process's PSS: weights, graph and session",
    }
