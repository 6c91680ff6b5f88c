"""The second half of a job: what was measured of its candidate, and what the gates say to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.compress import inputs
from slimgpt.compress.candidate import Candidate
from slimgpt.compress.job import Job
from slimgpt.compress.recipe_terms import in_recipe_terms
from slimgpt.compress.speed import measured_speed
from slimgpt.compress.stages import Stages
from slimgpt.evaluate.judge import judge
from slimgpt.release.gates import GateResult, evaluate_gates


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a candidate is good enough, and why.

    Attributes:
        recovery: the ``quality.recovery`` entry of its manifest; None without recovery.
        judgement: what was measured, empty where the recipe measures nothing.
        gates: all of them.
        speed: what the speed gate is about; None without one.
    """

    recovery: Mapping[str, Any] | None
    judgement: Mapping[str, Any]
    gates: tuple[GateResult, ...]
    speed: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    def to_json(self) -> dict[str, Any]:
        """For the record of a stage."""
        gates = [asdict(gate) for gate in self.gates]
        told = {"recovery": self.recovery, "judgement": self.judgement, "gates": gates}
        return told | {"speed": self.speed}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Verdict:
        """From the record of a stage."""
        gates = tuple(GateResult(**gate) for gate in document["gates"])
        return cls(document["recovery"], document["judgement"], gates, document.get("speed"))


def judge_candidate(job: Job, candidate: Candidate, stages: Stages) -> Verdict:
    """Measures a candidate beside the dense model and sets the gates; not if it was refused."""
    if candidate.refused:
        return Verdict(None, {}, (candidate.refused,))
    judgement = _judgement(job, candidate.directory, stages)
    speed = measured_speed(job, candidate.directory, stages)
    return Verdict(candidate.recovery, judgement, _gates(job, judgement, speed), speed)


def _judgement(job: Job, candidate: Path, stages: Stages) -> dict[str, Any]:
    if job.recipe.evaluate is None:
        return {}
    key = {
        "candidate": file_sha256(candidate / MANIFEST),
        "evaluate": job.recipe.to_document()["evaluate"],
        "files": inputs.evaluation_files(job.recipe),
        "confidence": inputs.confidence(job.recipe),
    }
    with in_recipe_terms("evaluate"):
        return stages.run("evaluate", key, lambda: _measure(job, candidate))


def _measure(job: Job, candidate: Path) -> dict[str, Any]:
    judgement = judge(
        candidate,
        job.checkpoint.directory,
        inputs.texts(job.recipe),
        inputs.tasks(job.recipe),
        device=job.settings.device,
        dtype=job.settings.dtype,
        seed=job.recipe.seed,
        confidence=inputs.confidence(job.recipe),
        progress=job.part("evaluate"),
    )
    return judgement.to_json()


def _gates(
    job: Job, judgement: Mapping[str, Any], speed: Mapping[str, Any] | None
) -> tuple[GateResult, ...]:
    if job.recipe.gates is None:
        return ()
    stored = job.checkpoint.meta.bytes_per_value
    gates, demanded = job.recipe.gates, job.recipe.evaluate
    return tuple(
        evaluate_gates(gates, judgement, job.plan.source, job.plan.target, stored, demanded, speed)
    )
