"""The recipe that ``slimgpt recipe init`` writes, made from the schema so that it can't drift.

``# text`` is a comment. A ``#`` with no space behind it, or with several, turns a setting off, and
taking this one ``#`` away turns it on.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from slimgpt.release.recipe.located_yaml import to_yaml
from slimgpt.release.recipe.schema_words import allowed, example, recipe_schema, resolved

_WIDTH = 98
_HEAD = (
    "What stands behind # without a space is off: of a setting it shows the default, of a section "
    "an example. To turn it on take this # away, for a section from all of its lines.",
    "File names are relative to the folder of this file.",
)


def recipe_template() -> str:
    """YAML that loads as it is, in which every setting stands and is explained."""
    schema = recipe_schema()
    lines = [line for text in (schema["description"], *_HEAD) for line in _comment(text)]
    for name, inside in schema["properties"].items():
        lines.append("")
        if "properties" in resolved(inside):
            lines += _section(name, inside, on=name in schema["required"])
        else:
            lines += _comment(f"{inside['description']} ({allowed(inside)})")
            lines.append(_setting(name, inside, on=inside["type"] != "array"))
    return "\n".join(lines) + "\n"


def _section(name: str, schema: Mapping[str, Any], *, on: bool) -> Iterator[str]:
    found = resolved(schema)
    yield from _comment(found["description"])
    yield f"{'' if on else '#'}{name}:"
    for key, inside in found["properties"].items():
        about = _comment(f"{inside['description']} ({allowed(inside)})")
        for line in (*about, _setting(key, inside, on="examples" in inside)):
            yield f"{'' if on else '#'}  {line}"


def _setting(name: str, schema: Mapping[str, Any], *, on: bool) -> str:
    value = example(schema) or to_yaml(schema["default"], one_line=True)
    return f"{'' if on else '#'}{name}: {value}"


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(" ".join(text.split()), _WIDTH - 4):
        yield f"# {line}"
