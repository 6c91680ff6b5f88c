"""From a YAML file and the command line to a checked recipe, or to all that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slimgpt.errors import UsageError
from slimgpt.release.recipe.file_name import is_kind
from slimgpt.release.recipe.files import missing_files
from slimgpt.release.recipe.located_yaml import NotReadable, Origin, read_yaml
from slimgpt.release.recipe.problems import Places, RecipeError, in_order, validation_problems
from slimgpt.release.recipe.recipe import Recipe
from slimgpt.release.recipe.schema_words import dotted, recipe_schema, resolved

LARGEST_FILE = 2**20
_KEY = re.compile(r"\w+(\.\w+)*")
_LONGEST_SHOWN = 100
_SECTIONS = {
    name
    for name, schema in recipe_schema()["properties"].items()
    if resolved(schema).get("type") == "object"
}


def load_recipe(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    ratio: float | None = None,
    seed: int | None = None,
    files: bool = True,
) -> Recipe:
    """Reads, completes and checks a recipe.

    File names are relative to the recipe's folder, those of overrides to the working directory.

    Args:
        path: the YAML file; None starts from nothing.
        overrides: ``--set`` values, like ``prune.method=slimgpt``; the value is YAML, a later one
            wins, and a list is given whole.
        ratio: of ``--ratio``.
        seed: of ``--seed``.
        files: whether the files named must be there.

    Raises:
        RecipeError: all that is wrong, each with ``file:line``, or the option that gave it.
        UsageError: the file can't be read.
    """
    draft = _Draft(path)
    for override in overrides:
        draft.set(override)
    draft.option("--ratio", ("prune", "ratio"), ratio)
    draft.option("--seed", ("seed",), seed)
    return draft.checked(files)


class _Draft:
    """A recipe while it is put together: values, their places, and problems so far."""

    def __init__(self, path: Path | None) -> None:
        self._name = str(path) if path else "recipe"
        self.places = Places(Origin(1, f"{self._name}:1" if path else "recipe"))
        self.problems: list[tuple[Origin, str]] = []
        self.document: dict[str, Any] = {}
        if path:
            self._read(path)

    def set(self, override: str) -> None:
        """Takes one ``--set KEY=VALUE``."""
        name, equals, text = override.partition("=")
        origin = Origin(0, f"--set {override}"[:_LONGEST_SHOWN])
        if not equals or not _KEY.fullmatch(name.strip()):
            why = "lists are given whole" if "[" in name else "sections are joined by dots"
            self.problems.append((origin, f"give KEY=VALUE, like prune.method=slimgpt; {why}"))
            return
        try:
            located = read_yaml(text, Path(), lambda line: origin)
        except NotReadable as reason:
            self.problems.append((origin, f"the value {reason.why}"))
            return
        self.problems += located.problems
        key = tuple(name.strip().split("."))
        self._put(key, located.value, origin)
        self.places.broken |= {(*key, *inner) for inner in located.broken}

    def option(self, flag: str, key: tuple[str, ...], value: float | None) -> None:
        """Takes what an option of its own gave; it may not contradict ``--set``."""
        if value is None:
            return
        origin = Origin(0, f"{flag} {value}")
        earlier = self.places.of.get(key)
        if earlier and earlier.line == 0:
            self.problems.append((origin, f"{earlier.text} says another thing: give one of them"))
        self._put(key, value, origin)

    def checked(self, files: bool) -> Recipe:
        """The recipe.

        Raises:
            RecipeError: all that is wrong with it.
        """
        # A recipe without the section lacks what it needs, not the section.
        document = {"prune": {}} | self.document
        try:
            recipe = Recipe.model_validate(document)
        except ValidationError as error:
            self.problems += validation_problems(error, self.places)
        else:
            if files:
                self.problems += [
                    self.places.value(key, name.written, problem)
                    for key, name, problem in missing_files(recipe)
                ]
            if not self.problems:
                return recipe
        raise RecipeError(in_order(self.problems))

    def _read(self, path: Path) -> None:
        text = _text(path)
        try:
            located = read_yaml(text, path.parent, lambda n: Origin(n, f"{self._name}:{n}"))
        except NotReadable as reason:
            raise RecipeError([f"{reason.origin.text}: {reason.why}"]) from None
        if located.value is None and not located.problems:
            raise RecipeError([f"{path}:1: is empty: slimgpt recipe init writes a commented one"])
        if not isinstance(located.value, dict):
            raise RecipeError(
                [f"{path}:1: no sections at the top: give keys, like prune: {{ratio: 0.25}}"]
            )
        self.places.of.update(located.origins)
        self.places.broken |= located.broken
        self.problems += located.problems
        self.document = located.value
        # `gates:` with all gates commented out is a section without gates, not no section.
        for name, *deeper in located.empty:
            if not deeper and name in _SECTIONS:
                self.document[str(name)] = {}

    def _put(self, key: tuple[str, ...], value: Any, origin: Origin) -> None:
        inside = self.document
        for depth, name in enumerate(key[:-1], 1):
            if inside.get(name) is None:
                inside[name] = {}
                self.places.put(key[:depth], origin)
            if not isinstance(inside[name], dict):
                self.problems.append((origin, f"{dotted(key[:depth])} is no section"))
                return
            inside = inside[name]
        inside[key[-1]] = value
        self.places.put(key, origin)


def _text(path: Path) -> str:
    """The text of a recipe file.

    Raises:
        UsageError: it can't be read as one.
    """
    if not is_kind(path, Path.is_file):
        raise UsageError(
            f"{path} is no file: give a recipe; slimgpt recipe init FILE writes a commented one"
        )
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise UsageError(f"{path} has {size:,} bytes: a recipe has {LARGEST_FILE:,} at most")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as reason:
        raise UsageError(f"{path} can't be read: {reason.strerror}") from None
    except UnicodeDecodeError as reason:
        where = f"{reason.reason} at byte {reason.start}"
        raise UsageError(f"{path} is no UTF-8 text: {where}") from None
