"""What a manifest claims to have measured, measured again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from slimgpt.errors import EnvironmentProblem, IntegrityError, Unresolved, UsageError
from slimgpt.progress import Progress
from slimgpt.release.card.markdown import plain
from slimgpt.release.verify.checks import Check
from slimgpt.release.verify.compare import (
    ACCURACY,
    DEFAULT_CONFIDENCE,
    compare_accuracy,
    compare_task,
    compare_text,
    without_source,
)
from slimgpt.release.verify.data_files import find_files
from slimgpt.release.verify.schema import Quality, TaskClaim, TextClaim

_TASK_NAME = re.compile(r"\w[\w. +-]{0,99}")


@dataclass(frozen=True, slots=True)
class Measuring:
    """What claims are measured with.

    Attributes:
        directory: the checkpoint.
        source: the dense one, known to be the one that the manifest names; None without it.
        data: files and folders with texts and tasks.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: to compute in where a claim does not say.
        progress: watches.
    """

    directory: Path
    source: Path | None
    data: Sequence[Path]
    device: str
    dtype: str
    progress: Progress


@dataclass(slots=True)
class _Job:
    """Claims that one judgement answers.

    Attributes:
        dtype: computed in.
        limit: questions of each task.
        seed: of the worked examples.
        texts: each with its file.
        tasks: by name.
    """

    dtype: str
    limit: int | None = None
    seed: int = 0
    texts: list[TextClaim] = field(default_factory=list)
    tasks: dict[str, TaskClaim] = field(default_factory=dict)


def check_claims(quality: Quality, measuring: Measuring) -> list[Check]:
    """A check for every number that is claimed, and for every file that was not found.

    Raises:
        UsageError: ``--data`` does not exist or holds too much.
    """
    wanted = {text.sha256: text.file or text.text for text in quality.texts}
    wanted |= {t.file_digest: str(t.file) for t in quality.tasks.values() if t.file_digest}
    files = find_files(wanted, measuring.data)
    checks = [
        Check(
            f"data {plain(name)}, SHA-256 {digest}",
            "not checked",
            f"give --data with {plain(name)}",
            Unresolved,
        )
        for digest, name in wanted.items()
        if digest not in files
    ]
    texts = [text for text in quality.texts if text.sha256 in files]
    tasks = {k: t for k, t in quality.tasks.items() if not t.file_digest or t.file_digest in files}
    for job in _jobs(texts, tasks, measuring.dtype):
        checks += _checked(job, quality, files, measuring)
    if quality.accuracy and not quality.tasks:
        checks.append(Check(ACCURACY, "failed", "no task is claimed that it could come from"))
    elif quality.accuracy and not any(check.check == ACCURACY for check in checks):
        why = "not all of its tasks could be measured together"
        checks.append(Check(ACCURACY, "not checked", why, Unresolved))
    return checks


def _jobs(texts: Sequence[TextClaim], tasks: Mapping[str, TaskClaim], dtype: str) -> list[_Job]:
    """As few as there are ways to measure; slimgpt itself measures everything in one."""
    jobs: dict[tuple[str, int | None, int], _Job] = {}
    for name, task in tasks.items():
        key = task.dtype or dtype, task.limit, task.seed
        jobs.setdefault(key, _Job(*key)).tasks[name] = task
    for text in texts:
        own = text.dtype or dtype
        key = next((key for key in jobs if key[0] == own), (own, None, 0))
        jobs.setdefault(key, _Job(*key)).texts.append(text)
    return list(jobs.values())


def _checked(
    job: _Job, quality: Quality, files: Mapping[str, Path], measuring: Measuring
) -> list[Check]:
    try:
        confidence = quality.accuracy.confidence if quality.accuracy else DEFAULT_CONFIDENCE
        measured = _measure(job, files, measuring, confidence)
    except EnvironmentProblem as reason:
        return [Check("claims", "not checked", str(reason), EnvironmentProblem)]
    except (UsageError, IntegrityError) as reason:
        return [Check("claims", "failed", f"they can't be measured: {reason}")]
    beside = measuring.source is not None
    checks: list[Check] = []
    for claim, again in zip(job.texts, measured.texts, strict=True):
        checks += compare_text(claim, again, beside_source=beside)
    for name, task in job.tasks.items():
        checks += compare_task(name, task, measured.tasks[name], beside_source=beside)
    if quality.accuracy and job.tasks and job.tasks.keys() == quality.tasks.keys():
        checks.append(
            compare_accuracy(quality.accuracy, measured.accuracy, measured.tasks, job.tasks)
            if beside
            else without_source(ACCURACY)
        )
    return checks


def _measure(
    job: _Job, files: Mapping[str, Path], measuring: Measuring, confidence: float
) -> Quality:
    """A fresh judgement, in the terms of a manifest."""
    from slimgpt.evaluate.judge import judge
    from slimgpt.evaluate.judgement import TaskOptions, TextSpec

    specs = [
        TextSpec(files[text.sha256], text.window, text.protocol, text.file or text.text)
        for text in job.texts
    ]
    shots = {task.num_fewshot for task in job.tasks.values()}
    with _questions(job.tasks, files) as names:
        judgement = judge(
            measuring.directory,
            measuring.source,
            specs,
            # Tasks that differ were left to choose for themselves.
            TaskOptions(
                names, num_fewshot=shots.pop() if len(shots) == 1 else None, limit=job.limit
            )
            if names
            else None,
            device=measuring.device,
            dtype=job.dtype,
            seed=job.seed,
            confidence=confidence,
            progress=measuring.progress,
        )
    measured = Quality.model_validate(judgement.to_json())
    if lost := sorted(job.tasks.keys() - measured.tasks.keys()):
        raise IntegrityError(f"no task has the name {', '.join(map(plain, lost))}")
    return measured


@contextmanager
def _questions(
    tasks: Mapping[str, TaskClaim], files: Mapping[str, Path]
) -> Iterator[tuple[str, ...]]:
    """What to call each task: a name of the harness, or a file that has the name of the task.

    A task is asked in the way of its name, so a file that was found under another gets a link.
    """
    with TemporaryDirectory(prefix="slimgpt-verify-") as folder:
        names = []
        for name, task in tasks.items():
            if not task.file_digest:
                names.append(name)
                continue
            if not _TASK_NAME.fullmatch(name):
                raise IntegrityError(f"{plain(name)} can't be the name of a task")
            found = files[task.file_digest].resolve()
            link = Path(folder, name + (".jsonl.gz" if found.name.endswith(".gz") else ".jsonl"))
            link.symlink_to(found)
            names.append(str(link))
        yield tuple(names)
