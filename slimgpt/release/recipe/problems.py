"""What is wrong with a recipe, in words: all of it at once, each with its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from slimgpt.errors import UsageError
from slimgpt.release.recipe.located_yaml import Key, Origin
from slimgpt.release.recipe.schema_words import (
    allowed,
    dotted,
    example,
    names_at,
    recipe_schema,
    resolved,
    schema_at,
    shown,
)
from slimgpt.release.recipe.sections import CONTRADICTION

_MOST_PROBLEMS = 100
_ALSO_GIVEN_BY: dict[Key, str] = {("prune", "ratio"): "; or give --ratio"}


class RecipeError(UsageError):
    """A recipe that can't be used.

    Attributes:
        problems: one line for each, in the order of the file; the message is all in one line.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


def in_order(problems: Iterable[tuple[Origin, str]]) -> list[str]:
    """Problems with their places, from the first line to the last; of very many, the first."""
    lines = [f"{origin.text}: {problem}" for origin, problem in sorted(problems, key=_line)]
    more = len(lines) - _MOST_PROBLEMS
    return lines if more <= 0 else [*lines[:_MOST_PROBLEMS], f"and {more} more problems"]


def _line(problem: tuple[Origin, str]) -> int:
    return problem[0].line


class Places:
    """Where each key of a recipe was written.

    Attributes:
        of: the place of each key.
        broken: keys of values that could not be taken, which was said already.
    """

    def __init__(self, whole: Origin) -> None:
        """Starts with nothing but what stands for the whole recipe."""
        self.of: dict[Key, Origin] = {}
        self.broken: set[Key] = set()
        self._whole = whole

    def find(self, key: Key) -> Origin:
        """The place of a key, or of the nearest section around it."""
        while key and key not in self.of:
            key = key[:-1]
        return self.of.get(key, self._whole)

    def put(self, key: Key, origin: Origin) -> None:
        """Says that all under a key was written anew, at another place."""
        for old in [k for k in self.of if k[: len(key)] == key]:
            del self.of[old]
            self.broken.discard(old)
        self.of[key] = origin

    def value(self, key: Key, given: Any, problem: str) -> tuple[Origin, str]:
        """A problem of one value, with its place; what an option shows is not shown twice."""
        origin = self.find(key)
        option = origin.line == 0 and key in self.of
        return origin, problem if option else f"{dotted(key)} {shown(given)}: {problem}"


def validation_problems(error: ValidationError, places: Places) -> Iterator[tuple[Origin, str]]:
    """Every error of pydantic in our words."""
    details = error.errors(include_url=False)
    for detail in details:
        key, kind, given = detail["loc"], detail["type"], detail["input"]
        if key in places.broken:
            continue
        deeper = [d for d in details if len(d["loc"]) > len(key) and d["loc"][: len(key)] == key]
        if kind == CONTRADICTION:
            for name, problem in detail["ctx"]["problems"]:
                inner = (*key, *filter(None, name.split(".")))
                yield places.find(inner), f"{dotted(inner)}: {problem}"
        elif kind == "extra_forbidden":
            yield places.find(key), _unknown(key)
        elif kind == "missing":
            also = _ALSO_GIVEN_BY.get(key, "")
            yield places.find(key), f"{dotted(key)} is missing: give {_wanted(key)}{also}"
        elif not (deeper and kind == "too_short"):  # wrong items are not counted
            why = f"{detail['ctx']['error']}; " if kind == "value_error" else ""
            yield places.value(key, given, f"{why}give {_wanted(key)}{_quoted(key, given)}")


def _wanted(key: Key) -> str:
    schema = schema_at(key)
    like = example(schema)
    return f"{allowed(schema)}{f', like {like}' if like else ''}"


def _quoted(key: Key, given: Any) -> str:
    """Advice where YAML took a name for something else."""
    text = resolved(schema_at(key)).get("type") == "string"
    return ", in quotes" if text and isinstance(given, bool | int | float) else ""


def _unknown(key: Key) -> str:
    *around, name = key
    known = names_at(tuple(around))
    near = get_close_matches(str(name), known, 1)
    elsewhere = [path for path in _everywhere(recipe_schema()) if path[-1] == name]
    if near:
        hint = f"did you mean {dotted((*around, near[0]))}?"
    elif elsewhere:
        hint = f"did you mean {' or '.join(map(dotted, elsewhere))}?"
    else:
        hint = f"known here: {', '.join(known)}"
    return f"{dotted(key)[:80]} is no setting: {hint}"


def _everywhere(schema: Mapping[str, Any], at: Key = ()) -> Iterator[tuple[str | int, ...]]:
    """All keys inside sections, lists left aside."""
    for name, inside in resolved(schema).get("properties", {}).items():
        yield (*at, name)
        yield from _everywhere(inside, (*at, name))
