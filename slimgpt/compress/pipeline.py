"""`slimgpt compress`: one resumable job from a dense checkpoint to a release that met its gates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import slimgpt
from slimgpt.calibration import Calibration, load_calibration
from slimgpt.checkpoint.digest import file_sha256, source_digest
from slimgpt.checkpoint.reader import MANIFEST, Checkpoint
from slimgpt.compress import inputs
from slimgpt.compress.preflight import Settings, preflight
from slimgpt.compress.publishing import (
    is_released,
    mark_and_publish,
    put_together,
    released_manifest,
)
from slimgpt.compress.report import require_report_directory, write_report
from slimgpt.compress.result import CompressResult
from slimgpt.compress.stages import Stages
from slimgpt.destination import exists, require_absent, require_apart
from slimgpt.errors import GateMissed, IntegrityError
from slimgpt.evaluate.judge import judge
from slimgpt.planning import Plan
from slimgpt.progress import Part, Progress, Silent, stage
from slimgpt.prune.driver import prune
from slimgpt.release.gates import GateResult, evaluate_gates
from slimgpt.release.intact import require_intact
from slimgpt.release.manifest import environment, read_manifest
from slimgpt.release.recipe.recipe import Recipe, prune_options_of
from slimgpt.resources import peak_rss_bytes, resolve_device
from slimgpt.workspace import Workspace, work_directory

PRUNED, RECOVERED = "pruned", "recovered"


def compress(
    model: Path,
    out: Path,
    recipe: Recipe,
    settings: Settings,
    *,
    source_name: str | None = None,
    progress: Progress | None = None,
) -> CompressResult:
    """Runs every stage that a recipe asks for; a killed job goes on where it was.

    Args:
        model: the dense checkpoint.
        out: must not exist; appears complete, and only if every gate is met.
        recipe: what to do.
        settings: where and how to compute.
        source_name: how the source is called in card and manifest; default its directory name.
        progress: watches.

    Raises:
        SlimGPTError: every expected failure but missed gates, which the result tells.
    """
    require_absent(out)
    require_apart(model, out)
    if settings.report:
        require_report_directory(settings.report, out)
    checkpoint, plan = preflight(model, recipe, settings)
    name = source_name or model.resolve().name
    job = _Job(checkpoint, out, recipe, settings, plan, name, progress or Silent())
    return job.execute()


class _Job:
    """One job: everything that is known before its first stage."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        out: Path,
        recipe: Recipe,
        settings: Settings,
        plan: Plan,
        source_name: str,
        progress: Progress,
    ) -> None:
        self.checkpoint, self.out, self.recipe, self.plan = checkpoint, out, recipe, plan
        self.settings, self.source_name, self.progress = settings, source_name, progress
        self.names = [
            *("source", "prune"),
            *(["recover"] if recipe.recover else []),
            *(["evaluate"] if recipe.evaluate else []),
            "release",
            *(["push"] if recipe.push else []),
        ]
        self.digest = ""
        self.workspace = Workspace(out)
        self.stages = Stages(self.workspace)

    def execute(self) -> CompressResult:
        started = time.monotonic()
        with closing(self.workspace):
            self.workspace.claim(self._fingerprint(), fresh=self.settings.fresh)
            self.stages.seconds["source"] = time.monotonic() - started
            published = is_released(self.workspace, self.out)
            if self.out.exists() and not published:
                raise exists(self.out)
            candidate, recovery, refused = self._weights()
            judgement = {} if refused else self._judge(candidate)
            gates = refused or self._gates(judgement)
            passed = all(gate.passed for gate in gates)
            if passed and not published:
                self._release(candidate, judgement, gates)
            pushed = self._push() if passed else None
            result = CompressResult(
                model=self.settings.model_name or str(self.checkpoint.directory),
                out=self.out,
                candidate=None if passed else candidate,
                plan=self.plan,
                bytes_per_value=self.checkpoint.meta.bytes_per_value,
                recovery=recovery,
                judgement=judgement,
                gates=gates,
                pushed=pushed,
                stage_seconds=self.stages.seconds,
                reused=tuple(self.stages.reused),
                seconds=sum(self.stages.seconds.values()),
                peak_rss_bytes=peak_rss_bytes(),
            )
            if self.settings.report:
                write_report(self.settings.report, result)
            if passed:
                self.workspace.remove()
            return result

    def _fingerprint(self) -> dict[str, Any]:
        """What decides the weights: gates and what is measured may change between two runs."""
        document = self.recipe.to_document()
        total = sum(path.stat().st_size for path in self.checkpoint.files)
        with stage(self._part("source"), "digest", total):
            self.digest = source_digest(self.checkpoint)
            self.progress.advance(total)
        return {
            "recipe": {k: document[k] for k in ("seed", "prune", "recover") if k in document},
            "files": inputs.training_files(self.recipe),
            "source": self.digest,
            "environment": environment(resolve_device(self.settings.device).type),
            "dtype": self.settings.dtype,
            "slimgpt_version": slimgpt.__version__,
        }

    def _part(self, name: str) -> Progress:
        return Part(self.progress, name, self.names.index(name) + 1, len(self.names))

    def _weights(self) -> tuple[Path, dict[str, Any] | None, tuple[GateResult, ...]]:
        """The checkpoint to judge, how its recovery went, and the gate that it may have missed."""
        pruned = self.workspace.directory / PRUNED
        self.stages.run("prune", {}, lambda: self._prune(pruned))
        options = inputs.recover_options(self.recipe, self.settings.device, self.settings.dtype)
        if options is None:
            require_intact(pruned)
            return pruned, None, ()
        recovered = self.workspace.directory / RECOVERED
        try:
            outcome = self.stages.run("recover", {}, lambda: self._recover(pruned, recovered))
        except GateMissed as refused:
            return pruned, None, (_refused(refused),)
        require_intact(recovered)
        return recovered, outcome, ()

    def _prune(self, pruned: Path) -> dict[str, Any]:
        if _unfinished(pruned):
            prune(
                self.checkpoint.directory,
                pruned,
                prune_options_of(self.recipe, self.settings.device, self.settings.dtype, False),
                self._calibrate,
                source_name=self.source_name,
                progress=self._part("prune"),
            )
        if _manifest(pruned)["source"]["digest"] != self.digest:
            raise IntegrityError(
                f"{self.checkpoint.directory} changed while it was pruned: start again with --fresh"
            )
        return {}

    def _calibrate(self, checkpoint: Checkpoint) -> Calibration:
        section = self.recipe.prune
        return load_calibration(
            checkpoint,
            [f.source for f in section.calibration],
            samples=section.samples,
            sequence_length=section.sequence_length,
            seed=self.recipe.seed,
            device=self.settings.device,
            progress=self._part("prune"),
        )

    def _recover(self, pruned: Path, recovered: Path) -> dict[str, Any]:
        from slimgpt.recover.driver import recover

        require_intact(pruned)
        options = inputs.recover_options(self.recipe, self.settings.device, self.settings.dtype)
        section = self.recipe.recover
        assert options
        assert section
        if _unfinished(recovered):
            recover(
                pruned,
                recovered,
                [f.source for f in section.data],
                options,
                dense=self.checkpoint.directory if options.distill_weight else None,
                progress=self._part("recover"),
            )
        return dict(_manifest(recovered)["quality"]["recovery"])

    def _judge(self, candidate: Path) -> dict[str, Any]:
        """What the candidate and the dense model make of texts and tasks."""
        if self.recipe.evaluate is None:
            return {}
        key = {
            "candidate": file_sha256(candidate / MANIFEST),
            "evaluate": self.recipe.to_document()["evaluate"],
            "files": inputs.evaluation_files(self.recipe),
            "confidence": inputs.confidence(self.recipe),
        }
        return self.stages.run("evaluate", key, lambda: self._measure(candidate))

    def _measure(self, candidate: Path) -> dict[str, Any]:
        judgement = judge(
            candidate,
            self.checkpoint.directory,
            inputs.texts(self.recipe),
            inputs.tasks(self.recipe),
            device=self.settings.device,
            dtype=self.settings.dtype,
            seed=self.recipe.seed,
            confidence=inputs.confidence(self.recipe),
            progress=self._part("evaluate"),
        )
        return judgement.to_json()

    def _gates(self, judgement: Mapping[str, Any]) -> tuple[GateResult, ...]:
        if self.recipe.gates is None:
            return ()
        return tuple(
            evaluate_gates(
                self.recipe.gates,
                judgement,
                self.plan.source,
                self.plan.target,
                self.checkpoint.meta.bytes_per_value,
                self.recipe.evaluate,
            )
        )

    def _release(
        self, candidate: Path, judgement: Mapping[str, Any], gates: tuple[GateResult, ...]
    ) -> None:
        started = time.monotonic()
        part = self._part("release")
        with stage(part, "writing OUT", 1):
            staging = self.workspace.staging()
            manifest = released_manifest(_manifest(candidate), self.recipe, judgement, gates)
            put_together(candidate, staging, manifest, self.checkpoint, self.recipe)
            if self.recipe.sign:
                from slimgpt.release.signing import sign

                sign(staging, self.recipe.sign.key.path)
            mark_and_publish(self.workspace, staging, self.out)
            part.advance()
        self.stages.seconds["release"] = time.monotonic() - started

    def _push(self) -> str | None:
        if self.recipe.push is None:
            return None
        from slimgpt.release.push import push

        started = time.monotonic()
        pushed = push(
            self.out,
            self.recipe.push.repository,
            private=self.recipe.push.private,
            progress=self._part("push"),
        )
        self.stages.seconds["push"] = time.monotonic() - started
        return pushed


def _unfinished(directory: Path) -> bool:
    """Whether a stage that writes a checkpoint of its own has not cleaned up after itself."""
    return not directory.exists() or work_directory(directory).exists()


def _manifest(directory: Path) -> dict[str, Any]:
    manifest = read_manifest(directory)
    if manifest is None:
        raise IntegrityError(f"{directory} has lost its {MANIFEST}: start again with --fresh")
    return manifest


def _refused(refused: GateMissed) -> GateResult:
    """A recovery that made nothing better, as a gate: it has to be below the loss before it."""
    measured, limit = refused.measured, refused.limit
    assert measured is not None
    assert limit is not None
    return GateResult(
        name="recovery",
        measured=measured,
        limit=limit,
        margin=limit - measured,
        passed=False,
        unit="nats/token, held-out",
        why=str(refused),
    )
