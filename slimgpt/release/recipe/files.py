"""The files that a recipe names: a job that would miss one after hours says so at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from slimgpt.calibration import HUB_SETS, SELF
from slimgpt.release.recipe.file_name import FileName, is_kind, present
from slimgpt.release.recipe.located_yaml import Key
from slimgpt.release.recipe.recipe import Recipe
from slimgpt.release.recipe.sections import Evaluate


def missing_files(recipe: Recipe) -> Iterator[tuple[Key, FileName, str]]:
    """Keys of files and folders that are not there, with what is written and what is wrong."""
    names = (*HUB_SETS, SELF)
    for i, file in enumerate(recipe.prune.calibration):
        yield from _missing(("prune", "calibration", i), file, names)
    for i, file in enumerate(recipe.recover.data if recipe.recover else ()):
        yield from _missing(("recover", "data", i), file, tuple(HUB_SETS))
    if recipe.evaluate:
        yield from _missing_from_evaluate(recipe.evaluate)
    for i, export in enumerate(recipe.exports):
        if export.text:
            yield from _missing(("exports", i, "text"), export.text)
    if recipe.sign:
        yield from _missing(("sign", "key"), recipe.sign.key)


def _missing_from_evaluate(evaluate: Evaluate) -> Iterator[tuple[Key, FileName, str]]:
    for i, text in enumerate(evaluate.texts):
        yield from _missing(("evaluate", "texts", i, "file"), text.file)
    for i, task in enumerate(evaluate.tasks):
        # Which names are tasks, only lm-eval knows.
        if task.looks_like_a_file:
            yield from _missing(("evaluate", "tasks", i), task)
    folder = evaluate.task_data
    if folder and not is_kind(folder.path, Path.is_dir):
        yield ("evaluate", "task_data"), folder, f"{folder.path} is no folder"


def _missing(
    key: Key, file: FileName, names: Sequence[str] = ()
) -> Iterator[tuple[Key, FileName, str]]:
    named = file.written in names and not present(file.path)
    if not named and not is_kind(file.path, Path.is_file):
        known = f", and no name like {', '.join(names)}" if names else ""
        yield key, file, f"{file.path} is no file{known}"
