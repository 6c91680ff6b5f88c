"""The first half of a job: weights that are pruned and, where the recipe says so, recovered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.calibration import Calibration, load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.compress import inputs
from slimgpt.compress.job import Job
from slimgpt.compress.recipe_terms import in_recipe_terms
from slimgpt.compress.stages import Stages
from slimgpt.errors import GateMissed, IntegrityError
from slimgpt.prune.driver import prune
from slimgpt.release.gates import RECOVERY, GateResult
from slimgpt.release.intact import require_intact
from slimgpt.release.recipe.recipe import prune_options_of
from slimgpt.release.recipe.sections import Recover
from slimgpt.release.verify.schema import load_manifest
from slimgpt.workspace import work_directory

PRUNED, RECOVERED = "pruned", "recovered"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint to judge.

    Attributes:
        directory: where it is.
        recovery: the ``quality.recovery`` entry of its manifest; None without recovery.
        refused: the gate that its recovery missed, which leaves the pruned weights.
    """

    directory: Path
    recovery: dict[str, Any] | None = None
    refused: GateResult | None = None


def make_candidate(job: Job, source_digest: str, work: Path, stages: Stages) -> Candidate:
    """Prunes and recovers, each stage once; a killed one goes on where it was.

    Args:
        job: what to do.
        source_digest: of the dense checkpoint.
        work: the job's work directory, where the stages have theirs.
        stages: their records.

    Raises:
        IntegrityError: what an earlier run left is damaged, or the source changed meanwhile.
        SlimGPTError: every other expected failure of a stage, in the terms of the recipe.
    """
    pruned, recovered = work / PRUNED, work / RECOVERED
    with in_recipe_terms("prune"):
        stages.run("prune", {}, lambda: _prune(job, source_digest, pruned))
    section = job.recipe.recover
    if section is None:
        require_intact(pruned)
        return Candidate(pruned)
    try:
        with in_recipe_terms("recover"):
            outcome = stages.run("recover", {}, lambda: _recover(job, section, pruned, recovered))
    except GateMissed as reason:
        return Candidate(pruned, refused=_refused(reason))
    require_intact(recovered)
    return Candidate(recovered, recovery=outcome)


def _prune(job: Job, source_digest: str, pruned: Path) -> dict[str, Any]:
    dense, settings = job.checkpoint.directory, job.settings
    if _unfinished(pruned):
        _require_training_data(job)
        prune(
            dense,
            pruned,
            prune_options_of(job.recipe, settings.device, settings.dtype, False),
            lambda checkpoint: _calibration(job, checkpoint),
            source_name=job.source_name,
            progress=job.part("prune"),
        )
    if _manifest(pruned)["source"]["digest"] != source_digest:
        raise IntegrityError(f"{dense} changed while it was pruned: start again with --fresh")
    return {}


def _require_training_data(job: Job) -> None:
    """Hours of pruning should not end in training data that is too short or can't be had."""
    from slimgpt.recover.data import load_training_data

    section = job.recipe.recover
    if section is None:
        return
    options = inputs.recover_options(section, job.recipe.seed, job.settings)
    with in_recipe_terms("recover"):
        load_training_data(job.checkpoint.meta, [f.source for f in section.data], options)


def _calibration(job: Job, checkpoint: Checkpoint) -> Calibration:
    section = job.recipe.prune
    return load_calibration(
        checkpoint,
        [f.source for f in section.calibration],
        samples=section.samples,
        sequence_length=section.sequence_length,
        seed=job.recipe.seed,
        device=job.settings.device,
        progress=job.part("prune"),
    )


def _recover(job: Job, section: Recover, pruned: Path, recovered: Path) -> dict[str, Any]:
    from slimgpt.recover.driver import recover

    require_intact(pruned)
    if _unfinished(recovered):
        recover(
            pruned,
            recovered,
            [f.source for f in section.data],
            inputs.recover_options(section, job.recipe.seed, job.settings),
            dense=job.checkpoint.directory if section.distill_weight else None,
            progress=job.part("recover"),
        )
    return dict(_manifest(recovered)["quality"]["recovery"])


def _unfinished(directory: Path) -> bool:
    """Whether a stage that writes a checkpoint of its own has not cleaned up after itself."""
    return not directory.exists() or work_directory(directory).exists()


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        return load_manifest(directory)[1]
    except IntegrityError as reason:
        raise IntegrityError(f"{reason}: start again with --fresh") from None


def _refused(reason: GateMissed) -> GateResult:
    """A recovery that is not to be shipped, as a gate: by how much the held-out loss may grow.

    A training that diverged has no loss to tell, and counts as not measured.
    """
    change = None
    if reason.measured is not None and reason.limit:
        change = reason.measured / reason.limit - 1
    return GateResult(
        name=RECOVERY,
        measured=change,
        limit=0.0,
        margin=None if change is None else 0.0 - change,
        passed=False,
        unit="fraction",
        why=str(reason),
    )
