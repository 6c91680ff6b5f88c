"""The stage of a speed gate: the dense model and the candidate timed in turn.

The measuring is the bench's, which is reached by name: the core imports nothing of it. What comes
out differs between equal runs, so that nothing of it goes into OUT (decision 0014).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import MANIFEST, Checkpoint
from slimgpt.compress.job import Job
from slimgpt.compress.recipe_terms import in_recipe_terms, with_keys
from slimgpt.compress.settings import Settings
from slimgpt.compress.stages import Stages
from slimgpt.pipeline_cost import Computing, StageCost
from slimgpt.planning import Plan
from slimgpt.release.recipe.recipe import Recipe
from slimgpt.release.recipe.sections import SpeedGate
from slimgpt.shape import ModelShape

_STAGE = "speed"
_START_S = 8.0
"""Of a process that imports torch and transformers and loads a small model."""
_WARMUP = 3
_PROCESS_BYTES = 600 * 2**20


def _bench() -> Any:
    return importlib.import_module("slimgpt_bench.compare.gate")


def check_speed(recipe: Recipe, checkpoint: Checkpoint, settings: Settings) -> None:
    """Refuses a speed gate that can't be measured here, before anything is pruned.

    Raises:
        UsageError: prompt and output are longer than the model's context.
        EnvironmentProblem: the engine is not installed.
    """
    gate = recipe.gates.speedup if recipe.gates else None
    if gate is not None:
        with in_recipe_terms("gates.speedup"):
            _bench().check(checkpoint.directory, _asked(gate), settings.device, settings.dtype)


def measured_speed(job: Job, candidate: Path, stages: Stages) -> Mapping[str, Any] | None:
    """What the gate is about, measured once; None where the recipe has none.

    A later run of the same job takes the record, so that a verdict on OUT stays what it was. What
    could not be measured is no verdict, and is measured anew.
    """
    gate = job.recipe.gates.speedup if job.recipe.gates else None
    if gate is None:
        return None
    asked = _asked(gate)
    key = {
        "candidate": file_sha256(candidate / MANIFEST),
        "gate": asked,
        "device": job.settings.device,
        "dtype": job.settings.dtype,
    }

    def measure() -> dict[str, Any]:
        found: dict[str, Any] = _bench().measure(
            job.checkpoint.directory,
            candidate,
            asked,
            device=job.settings.device,
            dtype=job.settings.dtype,
            seed=job.recipe.seed,
            progress=job.part(_STAGE),
        )
        if "why" in found:
            found["why"] = with_keys(str(found["why"]), "gates.speedup")
        return found

    with in_recipe_terms("gates.speedup"):
        told = stages.run(_STAGE, key, measure)
        if ("why" in told or told.get("interval") is None) and _STAGE in stages.reused:
            stages.reused.remove(_STAGE)
            told = stages.run_anew(_STAGE, key, measure)
    return told


def _asked(gate: SpeedGate) -> dict[str, Any]:
    return gate.model_dump(mode="json")


def speed_cost(plan: Plan, gate: SpeedGate, computing: Computing) -> StageCost:
    """What the stage will take: a process for each run, and in it as many answers as it takes.

    Args:
        plan: shapes of both models.
        gate: what is timed.
        computing: speeds of this machine.
    """
    answers = gate.trials + _WARMUP
    one = sum(_answer_s(shape, gate, computing) for shape in (plan.source, plan.target))
    weights = plan.source.weight_bytes(computing.value_bytes)
    return StageCost(
        _STAGE,
        2 * gate.rounds * (answers * one + 2 * _START_S),
        weights + (0 if computing.machine.is_gpu else _PROCESS_BYTES),
        2 * plan.target.weight_bytes(computing.stored_bytes),
        f"{4 * gate.rounds} processes with {answers} answers of {gate.output} tokens each",
    )


def _answer_s(shape: ModelShape, gate: SpeedGate, computing: Computing) -> float:
    machine = computing.machine
    read = gate.batch * shape.prefill_flops(gate.prompt) / machine.flops_per_s
    step = max(
        gate.batch * shape.decode_flops(gate.prompt + gate.output) / machine.flops_per_s,
        shape.weight_bytes(computing.value_bytes) / machine.bytes_per_s,
    )
    return read + gate.output * step
