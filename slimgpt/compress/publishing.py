"""The last stage: the chosen weights, what was measured of them, and a seal over both."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import CARD, MADE_ANEW, MANIFEST, Checkpoint
from slimgpt.checkpoint.writer import publish, sync
from slimgpt.compress import inputs
from slimgpt.compress.job import Job
from slimgpt.compress.stages import Stages
from slimgpt.compress.verdict import Verdict
from slimgpt.destination import exists
from slimgpt.errors import IntegrityError, UsageError
from slimgpt.progress import stage
from slimgpt.release.card.card import CardFacts, write_card
from slimgpt.release.manifest import read_manifest, rounded, seal
from slimgpt.release.recipe.recipe import Recipe

_STAGE = "release"


def release(job: Job, candidate: Path, verdict: Verdict, staging: Path, stages: Stages) -> None:
    """Puts the release together and renames it to OUT.

    The record of the stage is written in between, so that a run killed at any moment knows OUT for
    its own, and needs nothing else to end the job.

    Args:
        job: what to do.
        candidate: the checkpoint to release.
        verdict: on it; every gate is met.
        staging: an empty directory on the same disk.
        stages: the records.
    """

    def put_together() -> dict[str, Any]:
        manifest = released_manifest(candidate, job.recipe, verdict)
        _fill(staging, candidate, manifest, job.checkpoint, job.recipe)
        if job.recipe.sign:
            from slimgpt.release.signing import sign

            sign(staging, job.recipe.sign.key.path)
        return {
            "manifest": file_sha256(staging / MANIFEST),
            "asked": _asked(job.recipe),
            "verdict": verdict.to_json(),
            "seconds": dict(stages.seconds),
        }

    part = job.part(_STAGE)
    with stage(part, "writing OUT", 1):
        stages.run_anew(_STAGE, {}, put_together)
        publish(staging, job.out)
        part.advance()


def released(job: Job, stages: Stages) -> Verdict | None:
    """The verdict on OUT, if an earlier part of this very job published it; None if none did.

    Raises:
        UsageError: OUT is of someone else, or was published under another recipe.
        IntegrityError: it was changed since.
    """
    if not job.out.exists():
        return None
    record = stages.finished(_STAGE)
    if record is None:
        raise exists(job.out)
    manifest = job.out / MANIFEST
    if not manifest.is_file() or file_sha256(manifest) != record["manifest"]:
        raise IntegrityError(
            f"{job.out} was changed since it was published: remove it and run again"
        )
    asked = _asked(job.recipe)
    differing = [key for key in asked if asked[key] != record["asked"].get(key)]
    if differing:
        raise UsageError(
            f"{job.out} was published by an earlier run, with another {', '.join(differing)}: give "
            "those of that run to end it, or remove OUT to release anew"
        )
    stages.seconds = record["seconds"] | stages.seconds
    stages.reused = [name for name in job.stages if name in stages.seconds and name != "source"]
    return Verdict.from_json(record["verdict"])


def _asked(recipe: Recipe) -> dict[str, Any]:
    """What decides a release beside its weights, as JSON has it."""
    document = recipe.to_document()
    asked = {key: document.get(key) for key in ("evaluate", "gates", "sign")}
    # Exports with a directory of their own are made after the release, and of it.
    asked["exports"] = [e.to_document() for e in recipe.exports if not e.out]
    made: dict[str, Any] = json.loads(
        json.dumps(asked | {"evaluation data": inputs.evaluation_files(recipe)})
    )
    return made


def _fill(
    staging: Path, candidate: Path, manifest: Mapping[str, Any], dense: Checkpoint, recipe: Recipe
) -> None:
    """Everything but the signature; files of the candidate are linked, not copied."""
    for path in sorted(candidate.rglob("*")):
        relative = path.relative_to(candidate)
        if path.is_file() and str(relative) not in (CARD, MANIFEST, *MADE_ANEW):
            (staging / relative).parent.mkdir(parents=True, exist_ok=True)
            _link(path, staging / relative)
    made = Checkpoint(candidate)
    stock = made.meta.stored_type != made.meta.family.pruned_model_type
    write_card(staging, CardFacts(manifest, made.shape, dense.shape, dense.directory, stock))
    seal(staging, manifest, bom=any(e.format == "cyclonedx" for e in recipe.exports))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
        sync(target)


def released_manifest(candidate: Path, recipe: Recipe, verdict: Verdict) -> dict[str, Any]:
    """The manifest of a release but for its files: the candidate's, with what was decided since."""
    made = read_manifest(candidate) or {}
    document = recipe.to_document()
    asked = {key: document[key] for key in ("evaluate", "gates") if key in document}
    manifest = {key: value for key, value in made.items() if key not in ("files", "gates")}
    manifest["recipe"] = dict(made["recipe"]) | {"seed": recipe.seed} | asked
    manifest["quality"] = dict(made["quality"]) | rounded(verdict.judgement)
    if recipe.gates:
        manifest["gates"] = [rounded(asdict(gate.without_times())) for gate in verdict.gates]
    return manifest
