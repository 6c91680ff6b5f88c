"""Memory of a model on an engine: five kinds, each measured where it can be, never mixed.

``weights`` (files, and what the engine keeps of them), ``kv`` (bytes a token, tokens there is room
for), ``allocator`` (peaks of torch's), ``device`` (a GPU's, as its driver counts) and ``process``
(PSS and high-water mark of a process and its children). What can't be told is None, with a reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
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

    ONNX Runtime on a CPU gets a third, which runs without its arena: what that keeps is the
    difference.

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

    def fresh(*, arena: bool = True) -> Worker:
        settings = replace(options, arena=arena)
        return Worker(directory, settings, name=name, vocabulary=vocabulary, environ=environ)

    with fresh() as worker:
        loaded = worker.memory()
    with fresh() as worker:
        worker.forward(cell)
        found = worker.memory()
        has_arena = options.engine == "onnx" and worker.describe()["device"] == "cpu"
    process = found["process"] | {"loading": _of_process(loaded), "cell": cell.to_json()}
    if has_arena:
        with fresh(arena=False) as worker:
            worker.forward(cell)
            process["without_arena"] = _of_process(worker.memory())
    return {
        "weights": {"file_bytes": file_bytes, **_resident(loaded)},
        **{kind: found[kind] for kind in ("kv", "allocator", "device")},
        "process": process,
    }


def _of_process(memory: dict[str, Any]) -> dict[str, Any]:
    names = "pss_bytes", "anonymous_bytes", "high_water_bytes"
    return {name: memory["process"][name] for name in names}


def largest(cells: tuple[Cell, ...]) -> Cell:
    """The cell that holds most tokens at once."""
    return max(cells, key=lambda cell: cell.batch * cell.context)


def _resident(loaded: dict[str, Any]) -> dict[str, Any]:
    """What is kept of the weights: as the engine tells, else what loading added to the process."""
    told: dict[str, Any] = loaded["weights"]
    process, on_cpu = loaded["process"], loaded["device"]["total_bytes"] is None
    if told["resident_bytes"] is not None or "reason" in told:
        return told
    # Not of the whole PSS: of libraries another process may have taken its share meanwhile.
    after, before = process["anonymous_bytes"], process["baseline_anonymous_bytes"]
    if not on_cpu or after is None or before is None:
        return {"resident_bytes": None, "reason": "the engine does not tell"}
    return {
        "resident_bytes": after - before,
        "resident_source": "what loading added to the process's memory: weights, graph and session",
    }
