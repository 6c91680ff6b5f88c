"""A YAML file of settings to its pydantic model; what is wrong with it is told by line.

Numbers mean what YAML 1.2 says, as in recipes: ``4.8e12`` is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from slimgpt.errors import UsageError
from slimgpt.release.recipe.file_name import Written
from slimgpt.release.recipe.located_yaml import Key, Located, NotReadable, Origin, read_yaml

LARGEST_FILE = 2**20
_LONGEST_SHOWN = 60

Model = TypeVar("Model", bound=BaseModel)


def read_settings(path: Path, model: type[Model], flag: str) -> Model:
    """Reads and checks a file.

    Args:
        path: of the file.
        model: that it must fit.
        flag: that it was given by, for messages.

    Raises:
        UsageError: it can't be read, or all that is wrong with it, a line for each.
    """
    shown = f"{flag} {path}"
    located = _located(path, shown)
    if located.problems:
        raise _told([f"{origin.text}: {what}" for origin, what in located.problems])
    if not isinstance(located.value, dict):
        names = ", ".join(x.alias or name for name, x in model.model_fields.items())
        raise UsageError(f"{shown}:1: no keys at the top: give some of {names}")
    try:
        return model.model_validate(_plain(located.value))
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise _told([_problem(shown, located, model, x) for x in details]) from None


def _told(lines: list[str]) -> UsageError:
    error = UsageError("; ".join(lines))
    error.problems = tuple(dict.fromkeys(lines))
    return error


def _located(path: Path, shown: str) -> Located:
    try:
        size = path.stat().st_size
        text = path.read_bytes().decode("utf-8-sig") if size <= LARGEST_FILE else ""
    except OSError as reason:
        raise UsageError(f"{shown} can't be read: {reason.strerror}") from None
    except UnicodeDecodeError as reason:
        raise UsageError(f"{shown} is no UTF-8 text: {reason.reason}") from None
    if size > LARGEST_FILE:
        raise UsageError(f"{shown} has {size:,} bytes: give {LARGEST_FILE:,} at most")
    try:
        return read_yaml(text, path.parent, lambda n: Origin(n, f"{shown}:{n}"))
    except NotReadable as reason:
        raise UsageError(f"{reason.origin.text}: {reason.why}") from None


def _plain(value: Any) -> Any:
    """Values without what they remember of the file, which pydantic's strict mode refuses."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(x) for x in value]
    return str(value) if isinstance(value, Written) else value


def _problem(shown: str, located: Located, model: type[BaseModel], detail: Any) -> str:
    key: Key = tuple(detail["loc"])
    # Branches of a union stand in pydantic's places too; in the file they don't.
    place = key
    while place and place not in located.origins:
        place = place[:-1]
    where = located.origins[place].text if place else f"{shown}:1"
    name = ".".join(map(str, place if detail["type"] != "missing" else key))
    why = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = ", ".join(x.alias or name for name, x in model.model_fields.items())
        why = f"is no setting; known: {known}" if len(key) == 1 else "is no setting"
        return f"{where}: {name} {why}"
    if detail["type"] == "missing":
        return f"{where}: {name} is missing"
    given = detail["input"]
    told = "" if isinstance(given, dict | list) else f" {given!r}"[:_LONGEST_SHOWN]
    return f"{where}: {name}{told}: {why}" if name else f"{where}: {why}"
