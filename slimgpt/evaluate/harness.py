"""lm-eval (extra ``eval``), which this module alone imports: its tasks, and our models as its own.

Importing and calling it belongs inside :func:`slimgpt.evaluate.quiet.quiet`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isnan
from typing import Any

import numpy as np
import torch
from lm_eval import __version__ as VERSION
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from slimgpt.errors import IntegrityError, UsageError
from slimgpt.evaluate.local_tasks import LocalTask
from slimgpt.progress import Progress, stage
from slimgpt.tokenizer import require_in_vocabulary

HARNESS = f"lm_eval {VERSION}"
MMLU_SHOTS = 5
_BOOTSTRAP = 1000
"""Draws for the standard error of metrics other than means."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name that gets a score, and lm-eval's tasks behind it.

    Attributes:
        name: as reported.
        tasks: lm-eval task objects; several for a group.
        group: lm-eval's group object, None for a single task.
        protocol: in words.
        local: the file that it was made from.
    """

    name: str
    tasks: tuple[Any, ...]
    group: Any | None
    protocol: str
    local: LocalTask | None = None


@cache
def _index() -> Any:
    """lm-eval's list of its tasks: 14,000 files are read for it, some ten seconds."""
    return TaskManager()


def known_names() -> list[str]:
    """All tasks, groups and tags of lm-eval."""
    names: list[str] = _index().all_tasks
    return names


class _Rows(list[dict[str, Any]]):
    """Rows in memory with what lm-eval asks of a data set."""

    @property
    def features(self) -> dict[str, Any]:
        return self[0]


def local_entry(task: LocalTask, num_fewshot: int) -> Entry:
    """An lm-eval task of a local file; the data stay in memory."""
    several = len(task.prompts[0].contexts) > 1
    rows = [
        {"context": p.contexts[0], "target": p.targets[0], "label": p.label}
        | {"choices": list(p.contexts if several else p.targets)}
        for p in task.prompts
    ]
    metrics = ["acc"] if several else ["acc", "acc_norm"]
    config = {
        "task": f"file:{task.name}",  # a name that no task of lm-eval's has
        "custom_dataset": lambda **_: {"test": _Rows(rows)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "num_fewshot": num_fewshot,
        "doc_to_text": lambda row: row["label" if several else "context"],
        "doc_to_target": lambda row: row["target" if several else "label"],
        "doc_to_choice": lambda row: row["choices"],
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics
        ],
    }
    made = ConfigurableTask(config=config)
    _leave_out_the_asked(made)
    shots = f", {num_fewshot} examples of the same file in front" if num_fewshot else ""
    return Entry(task.name, (made,), None, task.protocol + shots, task)


def hub_entries(name: str, num_fewshot: int | None) -> list[Entry]:
    """What lm-eval has under a name, its data fetched: a group with a score, or single tasks.

    Raises:
        UsageError: it runs code of a model's making, or asks about pictures or sound.
    """
    loaded = _index().load([name])
    tasks = tuple(loaded["tasks"].values())
    for task in tasks:
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise UsageError(
                f"--tasks {name}: {task.task_name} runs code that the model writes, or needs "
                "pictures or sound: give tasks of text"
            )
        _set_shots(task, name, num_fewshot)
        _leave_out_the_asked(task)
    group = loaded["groups"].get(name)
    if group and group.has_aggregation:
        alike = not group.aggregate_metric_list[0].weight_by_size
        words = (
            f"lm-eval group {name}, version {group.version}: {len(tasks)} subtasks, "
            f"weighted {'alike (in the ratio of accuracies by size)' if alike else 'by size'}"
        )
        return [Entry(name, tasks, group, words)]
    return [Entry(task.task_name, (task,), None, _described(task)) for task in tasks]


def _described(task: Any) -> str:
    config = task.config
    data = " ".join(str(part) for part in (config.dataset_path, config.dataset_name) if part)
    split = config.test_split or config.validation_split
    return f"lm-eval task {task.task_name}, version {task.VERSION}: {data}, split {split}"


def _set_shots(task: Any, name: str, num_fewshot: int | None) -> None:
    """As asked, except where the task is defined without examples, as lm-eval has it."""
    own = task.get_config("num_fewshot")
    if num_fewshot is None or own == 0:
        mmlu = name == "mmlu" or name.startswith("mmlu_")
        num_fewshot = own if own is not None else MMLU_SHOTS if mmlu else 0
    task.set_config("num_fewshot", num_fewshot)


def _leave_out_the_asked(task: Any) -> None:
    """Where few-shot examples come from the evaluated split, the asked one is not among them.

    lm-eval leaves it out only where its config names the same split for both.
    """
    fewshot, config = getattr(task, "fewshot_cfg", None), task.config
    if fewshot is None or fewshot.samples is not None:
        return
    evaluated = config.test_split or config.validation_split
    source = fewshot.split or config.training_split or config.validation_split or evaluated
    if source == evaluated:
        fewshot.split = config.test_split = evaluated


def run(
    scorer: Scorer, entries: Sequence[Entry], *, limit: int | None, seed: int
) -> Mapping[str, Any]:
    """lm-eval's results, with a record of every example under ``samples``."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that tasks of lm-eval use
    torch.manual_seed(seed)
    tasks = {task.task_name: task for entry in entries for task in entry.tasks}
    for task in tasks.values():
        task.set_fewshot_seed(seed)
    groups = {entry.name: entry.group for entry in entries if entry.group}
    results: Mapping[str, Any] = evaluate(
        lm=scorer,
        task_dict={"tasks": tasks, "groups": groups},
        limit=limit,
        bootstrap_iters=_BOOTSTRAP,
    )
    return results


class Scorer(HFLM):  # type: ignore[misc] # 2026-11-22: lm_eval 0.4.13 ships no types
    """A loaded model as lm-eval asks it, which counts prompts that its context can't hold.

    Attributes:
        truncated: for each task, the examples of which a text lost its beginning.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        context_length: int | None,
        batch_size: int,
        progress: Progress,
    ) -> None:
        if not isinstance(tokenizer, (PreTrainedTokenizer, PreTrainedTokenizerFast)):
            raise UsageError(
                f"--tasks can't use the tokenizer class {type(tokenizer).__name__}, which "
                "tekken.json brings: evaluate a copy with tokenizer.json or tokenizer.model alone"
            )
        beginnings = (tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            max_length=context_length,
            batch_size=batch_size,
            softmax_dtype="float32",  # in bfloat16, different choices would get equal scores
            prefix_token_id=next(i for i in beginnings if i is not None),
        )
        self.truncated: dict[str, set[int]] = defaultdict(set)
        self._progress = progress
        self._asked: Sequence[Any] = ()
        self._watched = False

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        self._asked = requests
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        self._asked = ()
        if any(isnan(value) for value, _ in answers):
            raise IntegrityError(
                "the predictions are no numbers: the weights are damaged, or --dtype float32 is "
                "needed"
            )
        return answers

    def _loglikelihood_tokens(self, requests: Sequence[Any], **options: Any) -> Any:
        if not self._asked:  # rolling windows: no prompts, and as many calls as batches
            return super()._loglikelihood_tokens(requests, **options)
        fitting = [
            (texts, *self._fitted(instance, context, target))
            for instance, (texts, context, target) in zip(self._asked, requests, strict=True)
        ]
        distinct = {tuple(context + target[:-1]) for _, context, target in fitting}
        with stage(self._progress, "answering", len(distinct)):
            self._watched = True
            answers = super()._loglikelihood_tokens(fitting, **options)
            self._watched = False
        return answers

    def _fitted(
        self, instance: Any, context: list[int], target: list[int]
    ) -> tuple[list[int], list[int]]:
        """Context and target, of which lm-eval feeds the last tokens that the model can hold.

        A target that is longer than that, at which lm-eval would stop, is scored by its last
        tokens; what is in front of them counts as context.
        """
        where = f"--tasks {_shown(instance.task_name)}, example {instance.doc_id}"
        ids = context + target
        require_in_vocabulary(ids, self.model.config.vocab_size, where)
        if not target:
            raise UsageError(f"{where}: a choice adds no token to its prompt, so it has no score")
        if len(ids) <= self.max_length + 1:
            return context, target
        self.truncated[instance.task_name].add(instance.doc_id)
        scored = min(len(target), self.max_length)
        return ids[:-scored], ids[-scored:]

    def _model_call(self, inps: Any, **_: Any) -> Any:
        with torch.no_grad():
            logits = self.model(input_ids=inps, use_cache=False).logits
        if self._watched:
            self._progress.advance(len(inps))
        return logits

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        for instance in requests:
            self._check_generation(instance)
        with stage(self._progress, "answering", len(requests)):
            texts: list[str] = super().generate_until(requests, disable_tqdm=True)
        return texts

    def _check_generation(self, instance: Any) -> None:
        context, options = instance.args
        answer = normalize_gen_kwargs(options, self.max_gen_toks)["max_gen_toks"]
        room = self.max_length - answer
        where = f"--tasks {_shown(instance.task_name)}"
        if room < 1:
            raise UsageError(
                f"{where} answers in up to {answer} tokens, beyond the model's context of "
                f"{self.max_length}"
            )
        ids = self.tok_encode(context)
        require_in_vocabulary(ids, self.model.config.vocab_size, where)
        if len(ids) > room:
            self.truncated[instance.task_name].add(instance.doc_id)

    def _model_generate(self, context: Any, **options: Any) -> Any:
        generated = super()._model_generate(context, **options)
        self._progress.advance(len(context))
        return generated


def _shown(task_name: str) -> str:
    return task_name.removeprefix("file:")
