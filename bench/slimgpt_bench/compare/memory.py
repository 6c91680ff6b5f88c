"""The five kinds of memory, of each model in processes of its own, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt.progress import Progress, stage
from slimgpt_bench.compare.sides import DENSE, PRUNED, Side
from slimgpt_bench.latency import LatencyOptions
from slimgpt_bench.latency.memory import KINDS, measure_memory


def compare_memory(
    sides: Sequence[Side], options: LatencyOptions, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Each kind with what every model takes, and ``ratio``: pruned over dense, number by number.

    Args:
        sides: the dense model first.
        options: as for the times.
        progress: watches; a step is a model.

    Raises:
        SlimGPTError: as an engine refuses its model, or died.
    """
    found: dict[str, dict[str, Any]] = {}
    vocabulary = sides[0].artefact.shape.vocab_size
    with stage(progress, "memory", len(sides)):
        for side in sides:
            found[side.role] = measure_memory(
                side.artefact.directory,
                options,
                file_bytes=side.artefact.weight_bytes,
                name=side.name,
                vocabulary=vocabulary,
            )
            progress.advance()
    return {kind: _beside({role: told[kind] for role, told in found.items()}) for kind in KINDS}


def _beside(told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    before, after = told[DENSE], told[PRUNED]
    ratios = {
        key: after[key] / value
        for key, value in before.items()
        if _is_number(value) and value and _is_number(after.get(key))
    }
    return {**told, "ratio": ratios}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
