"""The schema of a recipe in words: what a key may hold. Errors and the template both say so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from slimgpt.release.recipe.located_yaml import Key, to_yaml
from slimgpt.release.recipe.recipe import Recipe

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_LONGEST_SHOWN = 60


@cache
def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe."""
    return Recipe.model_json_schema()


def resolved(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without references and without the null that a value may also be."""
    options = [o for o in schema.get("anyOf", ()) if o.get("type") != "null"]
    found = dict(schema) | (dict(options[0]) if options else {})
    if reference := found.pop("$ref", None):
        target = recipe_schema()["$defs"][reference.rpartition("/")[2]]
        found = dict(target) | found
    found.pop("anyOf", None)
    return found


def schema_at(key: Key) -> dict[str, Any]:
    """The schema of what stands under a key.

    Raises:
        KeyError: no recipe has such a key.
    """
    found = recipe_schema()
    for part in key:
        inside = resolved(found)
        found = inside["items"] if isinstance(part, int) else inside["properties"][part]
    return found


def names_at(key: Key) -> list[str]:
    """The keys of a section; none where there is no section."""
    return list(resolved(schema_at(key)).get("properties", ()))


def allowed(schema: Mapping[str, Any]) -> str:
    """What a value may be, like ``a number, at least 0 and below 1``."""
    found = resolved(schema)
    words = _kind(found)
    bounds = [
        f"{comparison} {found[name]}" for name, comparison in _BOUNDS.items() if name in found
    ]
    words += f", {' and '.join(bounds)}" if bounds else ""
    return f"{words}, or null" if may_be_null(schema) else words


def may_be_null(schema: Mapping[str, Any]) -> bool:
    """Whether null is one of the values."""
    return any(option.get("type") == "null" for option in schema.get("anyOf", ()))


def _kind(schema: Mapping[str, Any]) -> str:
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        *first, last = map(str, schema["enum"])
        return f"{', '.join(first)} or {last}"
    if schema["type"] == "object":
        return f"a section with {', '.join(schema['properties'])}"
    if schema["type"] == "array":
        sections = "properties" in resolved(schema["items"])
        return "a list of sections" if sections else "a list of file names or names"
    if schema["type"] == "string":
        return {"path": "a file name", "path or name": "a file name or a name"}.get(
            schema.get("format", ""), "text"
        )
    return {"boolean": "true or false", "integer": "a whole number", "number": "a number"}[
        schema["type"]
    ]


def example(schema: Mapping[str, Any]) -> str:
    """The first example of a schema in YAML; none where all values are named anyway."""
    examples = schema.get("examples", ())
    if {"const", "enum"} & schema.keys():
        return ""
    return to_yaml(examples[0], one_line=True) if examples else ""


def shown(value: Any) -> str:
    """What was given, short enough for a message."""
    if value == {}:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        text = str(value)
        return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "...")
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def dotted(key: Key) -> str:
    """A key as users write it, like ``evaluate.texts[0].window``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in key]
    return "".join(parts).removeprefix(".")
