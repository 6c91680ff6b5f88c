"""YAML to plain values, with the line of each for messages about a recipe, and back.

Scalars mean what YAML 1.2 says, not PyYAML's 1.1: ``1e-4`` is a number, ``no`` and ``on`` are
text, ``010`` is ten and ``1:30`` is no number. Only the standard kinds are built, and only so many.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from slimgpt.release.recipe.file_name import Written

Key = tuple[str | int, ...]
"""Where a value is: keys of sections and indices of lists, from the top."""
MOST_VALUES = 10_000
DEEPEST = 20
LARGEST_WHOLE_NUMBER = 2**32
_LONGEST_NUMBER = 100
_TAG = "tag:yaml.org,2002:"
_TRUTH = {"true": True, "false": False}


class Origin(NamedTuple):
    """Where something was written: a line of a file (0 is the command line), and that in words."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Located:
    """Values, where each key stands, and what could not be taken.

    Attributes:
        value: dictionaries, lists, Written, int, float, bool, None.
        origins: of every value but the top one.
        empty: keys behind which nothing stands, not even ``null``.
        broken: keys of values that could not be taken.
        problems: where and what.
    """

    value: Any
    origins: dict[Key, Origin] = field(default_factory=dict)
    empty: set[Key] = field(default_factory=set)
    broken: set[Key] = field(default_factory=set)
    problems: list[tuple[Origin, str]] = field(default_factory=list)


class NotReadable(Exception):
    """The text is no YAML, or too much of it; says where and why."""

    def __init__(self, origin: Origin, why: str) -> None:
        super().__init__(why)
        self.origin = origin
        self.why = why


class _TooMuch(Exception):
    """More than a recipe holds; says at which line."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would take for something else."""


class _Composer(yaml.SafeLoader):
    """Resolves plain scalars by the core schema of YAML 1.2."""

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012 - PyYAML's; filled below
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Stops early: a whole file of nonsense would take PyYAML many seconds."""
        self.nodes += 1
        if self.nodes > 2 * MOST_VALUES:  # keys are nodes too
            raise _TooMuch(self.line + 1)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


_CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _kind, (_pattern, _first) in _CORE.items():
    for _class in (_Composer, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(f"^(?:{_pattern})$"), _first)


def to_yaml(value: Any, *, one_line: bool = False) -> str:
    """YAML that :func:`read_yaml` reads as the same value."""
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=one_line,
        sort_keys=False,
        allow_unicode=True,
        width=10_000 if one_line else 80,
    )
    return str(text).removesuffix("\n").removesuffix("\n...") if one_line else str(text)


def read_yaml(text: str, folder: Path, where: Callable[[int], Origin]) -> Located:
    """Values of one YAML document.

    Args:
        text: the document.
        folder: what file names in it are relative to.
        where: words for a line, counted from 1.

    Raises:
        NotReadable: nothing sensible can be said of the rest.
    """
    try:
        node = yaml.compose(text, Loader=_Composer)
        return _Builder(folder, where).build_all(node) if node else Located(None)
    except _TooMuch as beyond:
        limit = f"{MOST_VALUES:,} values in {DEEPEST} levels"
        raise NotReadable(where(*beyond.args), f"holds more than a recipe may, {limit}") from None
    except yaml.MarkedYAMLError as reason:
        mark = reason.problem_mark or reason.context_mark
        why = " ".join(filter(None, (reason.context, reason.problem)))
        hint = "; indent with spaces" if "'\\t'" in why else ""
        line = where(mark.line + 1 if mark else 1)
        raise NotReadable(line, f"is no valid YAML: {why}{hint}") from None
    except yaml.reader.ReaderError as reason:
        line = where(text.count("\n", 0, reason.position) + 1)
        raise NotReadable(line, "is no text: it holds control characters") from None
    except RecursionError:
        raise NotReadable(where(1), "is nested too deeply for a recipe") from None
    except ValueError as reason:  # escapes and directives with numbers beyond all bounds
        raise NotReadable(where(1), f"is no valid YAML: {reason}") from None


class _Builder:
    """Builds values from nodes; aliases are followed, up to the limits."""

    def __init__(self, folder: Path, where: Callable[[int], Origin]) -> None:
        self._folder, self._where, self._values = folder, where, 0
        self._found = Located(None)

    def build_all(self, node: yaml.Node) -> Located:
        return replace(self._found, value=self._build(node, ()))

    def _build(self, node: yaml.Node, key: Key) -> Any:
        self._values += 1
        if self._values > MOST_VALUES or len(key) > DEEPEST:
            raise _TooMuch(node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._item(item, (*key, i)) for i, item in enumerate(node.value)]
        try:
            return self._scalar(node, key)
        except (ValueError, KeyError):
            shown = str(node.value)[:40] if isinstance(node, yaml.ScalarNode) else "this"
            tag = node.tag.replace(_TAG, "!!")
            self._problem(node, f"{shown!r} can't be read as {tag}: leave the tag out", key)
            return None

    def _item(self, node: yaml.Node, key: Key) -> Any:
        self._found.origins[key] = self._line(node)
        return self._build(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self._problem(name, "a list or section can't be a key: give a name")
            elif name.value == "<<":
                self._problem(name, "merge keys (<<) aren't read: write the keys out")
            elif name.value in made:
                first = self._found.origins[(*key, name.value)].text
                self._problem(name, f"{name.value} stands here for the second time, after {first}")
            else:
                self._found.origins[(*key, name.value)] = self._line(name)
                made[name.value] = self._build(value, (*key, name.value))
        return made

    def _scalar(self, node: yaml.Node, key: Key) -> Any:
        """Raises ValueError or KeyError where the text is not what its tag says."""
        kind, text = node.tag.removeprefix(_TAG), str(node.value)
        if kind == "str":
            if any(c < " " or "\ud800" <= c <= "\udfff" for c in text):
                return self._problem(node, "text can't hold line ends or control characters", key)
            return Written(text, self._folder)
        if kind == "null":
            if not text:
                self._found.empty.add(key)
            return None
        if kind == "bool":
            return _TRUTH[text.lower()]
        if len(text) > _LONGEST_NUMBER:
            return self._problem(node, f"a number of {len(text)} characters: give a short one", key)
        if kind == "float":
            return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower()))
        if kind != "int":
            raise ValueError(kind)
        number = int(text, 0 if text[:2] in ("0x", "0o") else 10)
        if abs(number) > LARGEST_WHOLE_NUMBER:
            return self._problem(node, f"{text} is beyond any setting: give less", key)
        return number

    def _line(self, node: yaml.Node) -> Origin:
        return self._where(node.start_mark.line + 1)

    def _problem(self, node: yaml.Node, what: str, broken: Key | None = None) -> None:
        if broken is not None:
            self._found.broken.add(broken)
        self._found.problems.append((self._line(node), what))
