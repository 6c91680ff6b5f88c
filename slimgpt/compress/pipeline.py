"""`slimgpt compress`: one resumable job from a dense checkpoint to a release that met its gates."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import slimgpt
from slimgpt.checkpoint.digest import source_digest
from slimgpt.compress import inputs
from slimgpt.compress.candidate import make_candidate
from slimgpt.compress.exports import make_export
from slimgpt.compress.job import Job
from slimgpt.compress.preflight import preflight
from slimgpt.compress.publishing import release, released
from slimgpt.compress.report import remove_report, write_report
from slimgpt.compress.result import CompressResult, ExportOutcome
from slimgpt.compress.settings import Settings
from slimgpt.compress.stages import Stages
from slimgpt.compress.verdict import Verdict, judge_candidate
from slimgpt.destination import exists
from slimgpt.errors import SlimGPTError
from slimgpt.progress import Progress, Silent, stage
from slimgpt.release.manifest import environment
from slimgpt.release.recipe.recipe import Recipe
from slimgpt.resources import peak_rss_bytes, resolve_device
from slimgpt.workspace import Workspace


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
    checkpoint, plan = preflight(model, out, recipe, settings)
    name = source_name or model.resolve().name
    return _Run(Job(checkpoint, out, recipe, settings, plan, name, progress or Silent())).execute()


class _Run:
    """One run of a job, in its work directory."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.workspace = Workspace(job.out)
        self.stages = Stages(self.workspace.directory)

    def execute(self) -> CompressResult:
        with closing(self.workspace):
            digest = self._claim()
            verdict, candidate = released(self.job, self.stages), None
            if verdict is None:
                verdict, candidate = self._make(digest)
            for gate in verdict.gates:
                self.job.progress.record("gate", asdict(gate))
            result = self._result(verdict, candidate)
            # Before all that may fail: what was measured is not to be lost where the hub is down.
            self._report(result)
            if result.passed:
                result = self._push(self._export(result))
                self.workspace.remove()
            return result

    def _claim(self) -> str:
        """Takes the work directory and returns the digest of the source.

        The fingerprint is what decides the weights: gates and what is measured may change between
        two runs.
        """
        started = time.monotonic()
        job, document = self.job, self.job.recipe.to_document()
        digest = self._source_digest()
        fingerprint = {
            "recipe": {k: document[k] for k in ("seed", "prune", "recover") if k in document},
            "training data": inputs.training_files(job.recipe),
            "source": digest,
            "environment": environment(resolve_device(job.settings.device).type),
            "dtype": job.settings.dtype,
            "slimgpt_version": slimgpt.__version__,
        }
        resumed = self.workspace.claim(fingerprint, fresh=job.settings.fresh)
        if job.out.exists() and not resumed:
            self.workspace.remove()  # of a run that was killed when its lock alone was left
            raise exists(job.out)
        self.stages.seconds["source"] = time.monotonic() - started
        return digest

    def _source_digest(self) -> str:
        part, checkpoint = self.job.part("source"), self.job.checkpoint
        total = sum(path.stat().st_size for path in checkpoint.files)
        with stage(part, "digest", total):
            digest = source_digest(checkpoint)
            part.advance(total)
        return digest

    def _make(self, source_digest: str) -> tuple[Verdict, Path | None]:
        """The verdict, and the candidate if that is as far as it got."""
        work, report = self.workspace.directory, self.job.settings.report
        for name in inputs.seen_before(self.job.recipe):
            self.job.progress.message(
                f"{name} is measured, and was calibrated or trained on: what a gate says of it is "
                "no more than that it was learned"
            )
        if report:
            remove_report(report)
        candidate = make_candidate(self.job, source_digest, work, self.stages)
        verdict = judge_candidate(self.job, candidate, self.stages)
        if not verdict.passed:
            return verdict, candidate.directory
        release(self.job, candidate.directory, verdict, self.workspace.staging(), self.stages)
        return verdict, None

    def _export(self, result: CompressResult) -> CompressResult:
        """Makes what is missing, in the order of the recipe, up to the first that fails."""
        exports = [export for export in self.job.recipe.exports if export.out]
        for number, export in enumerate(exports):
            outcome = result.exports[number]
            try:
                make_export(self.job, export, self.stages)
            except SlimGPTError as reason:
                error = f"export {outcome.out} was not made, though {result.out} is: {reason}"
                self._report(self._told(result, number, replace(outcome, error=str(reason))))
                reason.args = (error,)
                raise
            result = self._told(result, number, replace(outcome, made=True))
        if exports:
            self._report(result)
        return result

    def _told(self, result: CompressResult, number: int, outcome: ExportOutcome) -> CompressResult:
        before, after = result.exports[:number], result.exports[number + 1 :]
        return replace(
            result,
            exports=(*before, outcome, *after),
            stage_seconds=dict(self.stages.seconds),
            reused=tuple(self.stages.reused),
        )

    def _push(self, result: CompressResult) -> CompressResult:
        section = self.job.recipe.push
        if section is None:
            return result
        from slimgpt.release.push import push

        started = time.monotonic()
        pushed = push(
            self.job.out,
            section.repository,
            private=section.private,
            progress=self.job.part("push"),
        )
        self.stages.seconds["push"] = time.monotonic() - started
        result = replace(result, pushed=pushed, stage_seconds=dict(self.stages.seconds))
        self._report(result)
        return result

    def _report(self, result: CompressResult) -> None:
        if self.job.settings.report:
            write_report(self.job.settings.report, result)

    def _result(self, verdict: Verdict, candidate: Path | None) -> CompressResult:
        job = self.job
        return CompressResult(
            model=job.settings.model_name or str(job.checkpoint.directory),
            out=job.out,
            candidate=candidate,
            plan=job.plan,
            bytes_per_value=job.checkpoint.meta.bytes_per_value,
            recovery=verdict.recovery,
            judgement=verdict.judgement,
            gates=verdict.gates,
            speed=verdict.speed,
            exports=tuple(
                ExportOutcome(export.format, export.out.path)
                for export in job.recipe.exports
                if export.out
            ),
            pushed=None,
            stage_seconds=dict(self.stages.seconds),
            reused=tuple(self.stages.reused),
            peak_rss_bytes=peak_rss_bytes(),
        )
