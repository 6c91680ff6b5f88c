"""Zero-shot and few-shot tasks: which are meant, and a model's scores in them, through lm-eval."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import EnvironmentProblem, SlimGPTError, UsageError, missing_extra
from slimgpt.evaluate.local_tasks import LocalTask, local_names, local_task
from slimgpt.evaluate.quiet import quiet
from slimgpt.progress import Progress, Silent, stage

if TYPE_CHECKING:
    from slimgpt.evaluate.harness import Entry
    from slimgpt.evaluate.scores import TaskScore


@dataclass(frozen=True, slots=True)
class Chosen:
    """What ``--tasks`` means.

    Attributes:
        tokens: as given; for each the local task, or None for one of lm-eval's names.
        task_data: where local files were looked for.
        num_fewshot: as asked.
    """

    tokens: Mapping[str, LocalTask | None]
    task_data: Path | None
    num_fewshot: int | None


def choose_tasks(
    tokens: Sequence[str],
    *,
    task_data: Path | None = None,
    num_fewshot: int | None = None,
    progress: Progress | None = None,
) -> Chosen:
    """Reads local files and looks the other names up; nothing is fetched.

    Args:
        tokens: names of lm-eval's tasks and groups, names of files in ``task_data``, or paths.
        task_data: a folder of local files.
        num_fewshot: worked examples; None leaves it to each task (MMLU 5, local files 0).
        progress: watches.

    Raises:
        UsageError: a name is unknown or ambiguous, a file malformed or too short.
        EnvironmentProblem: lm-eval is not installed.
    """
    if not tokens or not all(token.strip() for token in tokens):
        raise UsageError("--tasks has an empty name: give names or .jsonl files, with commas")
    if num_fewshot is not None and num_fewshot < 0:
        raise UsageError(f"--num-fewshot {num_fewshot}: give 0 or more")
    found = {token: local_task(token, task_data) for token in dict.fromkeys(tokens)}
    local = [task for task in found.values() if task]
    names = [task.name for task in local] + [t for t, task in found.items() if not task]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--tasks names {twice} twice: rename one of the files")
    for task in local:
        if (num_fewshot or 0) >= len(task.prompts):
            raise UsageError(
                f"--num-fewshot {num_fewshot} needs more than the {len(task.prompts)} questions "
                f"of {task.file}: give fewer, or a longer file"
            )
    if importlib.util.find_spec("lm_eval") is None:
        raise missing_extra("--tasks", "eval")
    if others := [token for token, task in found.items() if not task]:
        _require_known(others, local_names(task_data), progress or Silent())
    return Chosen(found, task_data, num_fewshot)


def _require_known(names: Sequence[str], local: Sequence[str], progress: Progress) -> None:
    """Refuses names that lm-eval does not have either."""
    with quiet(), stage(progress, "reading lm-eval's list of tasks", 1):
        known = _harness().known_names()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, [*local, *known], n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "see lm-eval ls tasks"
            raise UsageError(
                f"--tasks {name} is no file of --task-data and no task of lm-eval's: {hint}"
            )


def _harness() -> Any:
    """The module that imports lm-eval."""
    try:
        from slimgpt.evaluate import harness
    except ImportError:
        raise missing_extra("--tasks", "eval") from None
    return harness


def load_tasks(chosen: Chosen, progress: Progress | None = None) -> list[Entry]:
    """The tasks with their data, fetched from the hub where they are not local.

    Raises:
        UsageError: a task can't be run here.
        EnvironmentProblem: the hub can't be reached, or a task needs a package of its own.
    """
    watcher = progress or Silent()
    entries: list[Entry] = []
    with quiet(), stage(watcher, "loading tasks", len(chosen.tokens)):
        harness = _harness()
        for token, task in chosen.tokens.items():
            if task:
                entries.append(harness.local_entry(task, chosen.num_fewshot or 0))
            else:
                entries += _from_hub(harness, token, chosen)
            watcher.advance()
    for entry in entries:
        shots = {task.get_config("num_fewshot") for task in entry.tasks}
        if chosen.num_fewshot is not None and shots != {chosen.num_fewshot}:
            watcher.message(f"--num-fewshot does not apply to {entry.name}, which is 0-shot")
    return entries


def _from_hub(harness: Any, name: str, chosen: Chosen) -> list[Entry]:
    try:
        entries: list[Entry] = harness.hub_entries(name, chosen.num_fewshot)
    except SlimGPTError:
        raise
    except ImportError as reason:
        raise EnvironmentProblem(f"--tasks {name} needs more packages: {reason}") from None
    except Exception as reason:  # noqa: BLE001 - each library below has its own kinds
        where = (
            f"no file for it is in {chosen.task_data}"
            if chosen.task_data
            else "it is no local file"
        )
        raise EnvironmentProblem(
            f"--tasks {name}: {where}, and its data can't be had from the hub "
            f"({type(reason).__name__}: {reason}); give --task-data DIR with {name}.jsonl"
        ) from None
    return entries


def evaluate_tasks(
    model: Any,
    meta: ConfigOnly,
    entries: Sequence[Entry],
    *,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, TaskScore]:
    """What a loaded model scores.

    Args:
        model: a transformers causal LM in evaluation mode.
        meta: its checkpoint; the tokenizer comes from there.
        entries: from :func:`load_tasks`; they may be asked again of another model.
        limit: examples of each task (of each subtask, in a group), the first ones; None for all.
        batch_size: texts in one forward pass.
        seed: of the choice of worked examples.
        progress: watches.

    Raises:
        UsageError: a text can't be scored in the model's context.
        IntegrityError: the model predicts NaN, or the tokenizer does not fit it.
        EnvironmentProblem: too little memory, or lm-eval fails in a task of its own.
    """
    from slimgpt.evaluate.scores import score
    from slimgpt.tokenizer import load_tokenizer

    watcher = progress or Silent()
    tokenizer = load_tokenizer(meta.directory)
    with quiet():
        harness = _harness()
        scorer = harness.Scorer(
            model,
            tokenizer,
            context_length=meta.context_length,
            batch_size=batch_size,
            progress=watcher,
        )
        try:
            results = harness.run(scorer, entries, limit=limit, seed=seed)
        except SlimGPTError:
            raise
        except Exception as reason:  # noqa: BLE001 - each task has its own kinds
            raise _explained(reason, entries, batch_size) or reason from None
        scores = {e.name: score(e, results, scorer.truncated, harness.HARNESS) for e in entries}
    for name, made in scores.items():
        if made.truncated:
            watcher.message(
                f"{name}: {made.truncated} of {made.n} examples are longer than the model's "
                f"context of {scorer.max_length} tokens and lost their beginning"
            )
    return scores


def _explained(
    reason: Exception, entries: Sequence[Entry], batch_size: int
) -> EnvironmentProblem | None:
    """A user's words for a failure that is not ours."""
    if isinstance(reason, MemoryError) or "memory" in str(reason).lower():
        return EnvironmentProblem(
            f"out of memory with --batch-size {batch_size}: give a smaller one, or --device cpu"
        )
    hub = [entry.name for entry in entries if not entry.local]
    if hub and not isinstance(reason, OSError):
        return EnvironmentProblem(
            f"--tasks {','.join(hub)}: lm_eval failed ({type(reason).__name__}: {reason})"
        )
    return None
