"""Judges a model beside the one it was made from: on texts and in tasks, each loaded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.onnx_export import is_onnx
from slimgpt.checkpoint.reader import ConfigOnly, read_config
from slimgpt.errors import UsageError
from slimgpt.evaluate.judgement import JudgedText, Judgement, TaskOptions, TextSpec
from slimgpt.progress import Progress, Silent

if TYPE_CHECKING:
    from slimgpt.evaluate.accuracy import AccuracyRatio
    from slimgpt.evaluate.scores import TaskScore
    from slimgpt.evaluate.tasks import Chosen
    from slimgpt.evaluate.windows import EvaluationText

__all__ = ["JudgedText", "Judgement", "TaskOptions", "TextSpec", "check", "judge"]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """All that a judgement needs before a model is loaded."""

    meta: ConfigOnly
    dense: ConfigOnly | None
    texts: tuple[tuple[TextSpec, EvaluationText, str], ...]
    tasks: Chosen | None


def check(
    model: Path,
    baseline: Path | None,
    texts: Sequence[TextSpec],
    tasks: TaskOptions | None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> None:
    """Everything that can be wrong with a judgement, but for the weights and the hub.

    Long work should begin with it: it takes seconds, and some ten more where a task is lm-eval's.

    Args:
        model: the checkpoint, or the one that it will be made from: tokenizer and context count.
        baseline: the dense model.
        texts: see :func:`judge`.
        tasks: see :func:`judge`.
        device: see :func:`judge`.
        progress: watches.

    Raises:
        SlimGPTError: as :func:`judge`.
    """
    _prepare(model, baseline, texts, tasks, device, progress or Silent())


def _prepare(
    model: Path,
    baseline: Path | None,
    texts: Sequence[TextSpec],
    tasks: TaskOptions | None,
    device: str,
    progress: Progress,
) -> _Prepared:
    from slimgpt.evaluate.tasks import choose_tasks
    from slimgpt.evaluate.windows import load_text
    from slimgpt.resources import resolve_device
    from slimgpt.tokenizer import load_tokenizer

    if not all(map(is_onnx, [model, baseline] if baseline else [model])):
        resolve_device(device)  # ONNX Runtime has a list of its own
    meta = read_config(model, quantized=True)
    dense = read_config(baseline) if baseline else None
    if texts and dense and dense.shape.vocab_size != meta.shape.vocab_size:
        raise UsageError(
            f"--baseline {baseline} has a vocabulary of {dense.shape.vocab_size}, {model} one of "
            f"{meta.shape.vocab_size}: KL needs the same"
        )
    loaded = tuple(
        (t, load_text(meta, t.path, t.window, t.protocol), file_sha256(t.path)) for t in texts
    )
    if tasks is None:
        return _Prepared(meta, dense, loaded, None)
    for option, value in (("--limit", tasks.limit), ("--batch-size", tasks.batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{option} {value}: give at least 1")
    chosen = choose_tasks(
        tasks.names,
        task_data=tasks.task_data,
        num_fewshot=tasks.num_fewshot,
        progress=progress,
    )
    for asked in (meta, dense) if dense else (meta,):
        load_tokenizer(asked.directory)
    return _Prepared(meta, dense, loaded, chosen)


def judge(
    model: Path,
    baseline: Path | None,
    texts: Sequence[TextSpec],
    tasks: TaskOptions | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    confidence: float = 0.95,
    progress: Progress | None = None,
) -> Judgement:
    """Scores a model on texts and tasks, and the model that it was made from beside it.

    Args:
        model: a checkpoint directory, or an ONNX export, which runs on ONNX Runtime.
        baseline: the dense model's; None leaves KL and everything relative out.
        texts: for perplexity and KL.
        tasks: to answer; None for none.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: to compute in; ``auto`` is float32 on a CPU and the stored type on a GPU.
        seed: of the choice of worked examples.
        confidence: of the bounds of the accuracy ratio.
        progress: watches.

    Raises:
        UsageError: an option, a file or a task's name is wrong, or the vocabularies differ.
        EnvironmentProblem: an extra, the device, the hub or memory is missing.
        IntegrityError: a checkpoint is damaged, or a model predicts NaN.
    """
    from slimgpt.evaluate.perplexity import measure
    from slimgpt.evaluate.tasks import evaluate_tasks, load_tasks

    watcher = progress or Silent()
    for directory in (model, baseline):
        _require_own_dtype(directory, dtype)
    prepared = _prepare(model, baseline, texts, tasks, device, watcher)
    entries = load_tasks(prepared.tasks, watcher) if prepared.tasks else []
    loaded = _load(model, device, dtype)
    # With KL to measure, both models must be there together; with tasks alone, one after the other.
    dense: Any = _load(baseline, device, dtype) if baseline and texts else None
    judged = tuple(
        JudgedText(spec, measure(loaded, windows, dense, watcher), sha256)
        for spec, windows, sha256 in prepared.texts
    )
    computed_in = str(loaded.dtype).removeprefix("torch.")
    runtime: dict[str, str] = loaded.runtime if is_onnx(model) else {}

    def scored(asked: Any, meta: ConfigOnly) -> dict[str, TaskScore]:
        assert tasks
        return evaluate_tasks(
            asked,
            meta,
            entries,
            limit=tasks.limit,
            batch_size=tasks.batch_size,
            seed=seed,
            progress=watcher,
        )

    scores = scored(loaded, prepared.meta) if entries else {}
    del loaded
    dense_scores = None
    if entries and baseline and prepared.dense:
        dense = dense or _load(baseline, device, dtype)
        dense_scores = scored(dense, prepared.dense)
    return Judgement(
        texts=judged,
        tasks=scores,
        baseline_tasks=dense_scores,
        accuracy=_accuracy(scores, dense_scores, confidence),
        limit=tasks.limit if tasks else None,
        seed=seed,
        dtype=computed_in,
        runtime=runtime,
    )


def _load(directory: Path, device: str, dtype: str) -> Any:
    """What can be asked for logits; the core reaches ONNX Runtime by name."""
    from slimgpt.loading import load_model

    if is_onnx(directory):
        scoring = import_module("slimgpt_serve.onnx_runtime.scoring")
        return scoring.load_scored(directory, device=device)
    return load_model(directory, device=device, dtype=dtype)[0]


def _require_own_dtype(directory: Path | None, dtype: str) -> None:
    if directory and dtype != "auto" and is_onnx(directory):
        raise UsageError(
            f"--dtype {dtype}: {directory} is an ONNX export, whose precision is fixed; export it "
            "again with slimgpt export onnx --precision, and leave --dtype out"
        )


def _accuracy(
    scores: Mapping[str, TaskScore],
    baseline: Mapping[str, TaskScore] | None,
    confidence: float,
) -> AccuracyRatio | None:
    """The ratio over all tasks with choices."""
    from slimgpt.evaluate.accuracy import accuracy_ratio

    pairs = [(scores[name].answers, dense.answers) for name, dense in (baseline or {}).items()]
    answers = [(a, b) for a, b in pairs if a is not None and b is not None]
    return accuracy_ratio(answers, confidence) if answers else None
