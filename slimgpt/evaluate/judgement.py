"""The record of a judgement: what was asked, what was measured, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimgpt.evaluate.accuracy import AccuracyRatio
    from slimgpt.evaluate.perplexity import Quality
    from slimgpt.evaluate.scores import TaskScore
    from slimgpt.evaluate.windows import Protocol

TASK_BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class TextSpec:
    """A text to score.

    Attributes:
        path: where it is.
        window: tokens in a disjoint window.
        protocol: ``raw`` or ``paper``.
        file: as the user named it, for the record.
    """

    path: Path
    window: int
    protocol: Protocol
    file: str


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Tasks to score.

    Attributes:
        names: of lm-eval, of files in ``task_data``, or paths of .jsonl files.
        task_data: a folder of local files.
        num_fewshot: worked examples; None leaves it to each task.
        limit: examples of each task; None for all.
        batch_size: texts in one forward pass.
    """

    names: tuple[str, ...]
    task_data: Path | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = TASK_BATCH_SIZE


@dataclass(frozen=True, slots=True)
class JudgedText:
    """A text, what a model makes of it, and the SHA-256 of its file."""

    spec: TextSpec
    quality: Quality
    sha256: str

    def to_json(self) -> dict[str, Any]:
        from slimgpt.evaluate.perplexity import perplexity

        baseline = self.quality.baseline_nll
        return {
            "text": self.quality.text.name,
            "file": self.spec.file,
            "sha256": self.sha256,
            "window": self.spec.window,
            "protocol": self.spec.protocol,
            "how": self.quality.text.protocol,
            "tokens": self.quality.text.scored_tokens,
            "perplexity": _finite(self.quality.perplexity),
            "baseline_perplexity": None if baseline is None else _finite(perplexity(baseline)),
            "kl": self.quality.kl,
        }


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was measured, and how.

    Attributes:
        texts: in the order given.
        tasks: by name.
        baseline_tasks: the baseline's scores; None without one.
        accuracy: of both, over all tasks with choices; None where there are none.
        limit: examples of each task, as asked.
        seed: of the tasks.
        dtype: computed in.
        runtime: engine, provider and precision of an ONNX export; empty for a checkpoint.
    """

    texts: tuple[JudgedText, ...]
    tasks: Mapping[str, TaskScore]
    baseline_tasks: Mapping[str, TaskScore] | None
    accuracy: AccuracyRatio | None
    limit: int | None
    seed: int
    dtype: str
    runtime: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record for a manifest: no paths beyond what the user named, no times."""
        document: dict[str, Any] = {
            "texts": [text.to_json() | {"dtype": self.dtype} for text in self.texts],
            "tasks": {name: self._task(name) for name in self.tasks},
        }
        if self.accuracy:
            document["accuracy"] = self.accuracy.to_json()
        return document

    def _task(self, name: str) -> dict[str, Any]:
        entry = self.tasks[name].to_json()
        entry |= {"limit": self.limit, "seed": self.seed, "dtype": self.dtype}
        if self.baseline_tasks is not None:
            entry["baseline"] = self.baseline_tasks[name].figures()
        return entry


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if isfinite(value) else None
