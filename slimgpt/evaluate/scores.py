"""What a model scored in a task: from lm-eval's record of every example to figures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from slimgpt.evaluate.accuracy import Answers

if TYPE_CHECKING:
    from slimgpt.evaluate.harness import Entry


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean or another metric with its standard error; None where it is no finite number."""

    value: float | None
    stderr: float | None


_NONE = Figure(None, None)


@dataclass(frozen=True, slots=True, eq=False)
class TaskScore:
    """A model's score in a task.

    Attributes:
        n: examples scored.
        num_fewshot: worked examples in front of each; None for a group whose tasks differ.
        truncated: examples of which the beginning was cut off to fit the model's context.
        protocol: how it was asked, in words.
        harness: lm_eval and its version.
        file: the local file, None for a task of the hub.
        sha256: of the local file, or of the hub's examples as lm-eval hashes them.
        acc: share of examples whose most likely choice is the right one.
        acc_norm: the same with log-likelihood by character; what lm-eval does not define here
            (BoolQ, MMLU) is computed all the same.
        answers: for each example, by task and number, whether acc counts it right.
        answers_norm: the same for acc_norm.
        metrics: of a task without choices, by lm-eval's names.
    """

    n: int
    num_fewshot: int | None
    truncated: int
    protocol: str
    harness: str
    file: str | None
    sha256: str
    acc: Figure
    acc_norm: Figure
    answers: Answers | None
    answers_norm: Answers | None
    metrics: Mapping[str, Figure]

    def figures(self) -> dict[str, Any]:
        """acc and acc_norm with standard errors, or the metrics of a task without choices."""
        if self.answers is None:
            return {
                "metrics": {
                    name: {"value": figure.value, "stderr": figure.stderr}
                    for name, figure in self.metrics.items()
                }
            }
        return {
            "acc": self.acc.value,
            "acc_stderr": self.acc.stderr,
            "acc_norm": self.acc_norm.value,
            "acc_norm_stderr": self.acc_norm.stderr,
        }

    def to_json(self) -> dict[str, Any]:
        """The entry of a judgement, without what is common to all tasks."""
        return self.figures() | {
            "n": self.n,
            "num_fewshot": self.num_fewshot,
            "truncated": self.truncated,
            "file": self.file,
            "sha256": self.sha256,
            "protocol": self.protocol,
            "harness": self.harness,
        }


def score(
    entry: Entry, results: Mapping[str, Any], truncated: Mapping[str, set[int]], harness: str
) -> TaskScore:
    """The score of a task or group.

    Args:
        entry: what was asked.
        results: of lm-eval, with samples.
        truncated: for each task, the examples that were cut.
        harness: lm_eval and its version.
    """
    by_task = {task.task_name: _samples(results, task.task_name) for task in entry.tasks}
    answers = _vector(s.get("acc") for samples in by_task.values() for s in samples)
    normal = _vector(_normalised(task, s) for task in entry.tasks for s in by_task[task.task_name])
    own = _metrics(results["results"].get(entry.name if entry.group else entry.tasks[0].task_name))
    shots = {task.get_config("num_fewshot") for task in entry.tasks}
    return TaskScore(
        n=sum(len(samples) for samples in by_task.values()),
        num_fewshot=shots.pop() if len(shots) == 1 else None,
        truncated=sum(len(truncated.get(name, ())) for name in by_task),
        protocol=entry.protocol,
        harness=harness,
        file=entry.local.file if entry.local else None,
        sha256=entry.local.sha256 if entry.local else _digest(by_task),
        acc=own.get("acc", _NONE) if answers is not None else _NONE,
        acc_norm=own.get("acc_norm") or _figure(normal),
        answers=answers,
        answers_norm=normal,
        metrics=own,
    )


def _samples(results: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """One record an example, by number; a task with several filters has one of each."""
    records = sorted(results["samples"][name], key=lambda r: r["doc_id"])
    return [r for r in records if r["filter"] == records[0]["filter"]]


def _vector(values: Any) -> Answers | None:
    """None where an example has no such value."""
    numbers = list(values)
    if not all(isinstance(v, int | float) for v in numbers):
        return None
    return np.array(numbers, dtype=np.float64)


def _normalised(task: Any, sample: Mapping[str, Any]) -> float | None:
    """acc_norm of an example as lm-eval defines it, also where its task does not ask for it."""
    if "acc_norm" in sample:
        return float(sample["acc_norm"])
    if task.OUTPUT_TYPE != "multiple_choice" or "acc" not in sample:
        return None
    if task.multiple_input:  # the scored text is the same behind every choice
        return float(sample["acc"])
    choices = task.doc_to_choice(sample["doc"])
    likelihoods = [answer[0] for answer in sample["filtered_resps"][: len(choices)]]
    best = int(np.argmax([x / len(c) for x, c in zip(likelihoods, choices, strict=True)]))
    return float(best in _right(sample["target"], choices))


def _right(target: Any, choices: Sequence[str]) -> list[Any]:
    targets = target if isinstance(target, list) else [target]
    return [choices.index(t) if isinstance(t, str) and t in choices else t for t in targets]


def _figure(values: Answers | None) -> Figure:
    """Mean and standard error, which one example alone does not give."""
    if values is None:
        return _NONE
    stderr = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    return Figure(float(values.mean()), None if stderr is None else float(stderr))


def _metrics(results: Mapping[str, Any] | None) -> dict[str, Figure]:
    """lm-eval's ``{"acc,none": ..., "acc_stderr,none": ...}`` by metric."""
    found = {}
    for key, value in (results or {}).items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = (results or {}).get(f"{metric}_stderr,{kind}")
            name = metric if kind == "none" else key
            found[name] = Figure(_finite(value), _finite(stderr))
    return found


def _finite(value: Any) -> float | None:
    """JSON has no other number, and lm-eval writes N/A for none."""
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _digest(by_task: Mapping[str, list[Mapping[str, Any]]]) -> str:
    whole = hashlib.sha256()
    for name, samples in sorted(by_task.items()):
        for sample in samples:
            whole.update(f"{name} {sample['doc_id']} {sample['doc_hash']}\n".encode())
    return whole.hexdigest()
