"""Markdown from values of strangers: names, licences and files can't become markup or new lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_LONGEST = 200
# An underscore within a word is no emphasis, and `arc_challenge` is easier to read without.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)")


def plain(value: object) -> str:
    r"""A value as one printable line of at most 200 characters.

    >>> plain("a\n---\nb")
    'a --- b'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def inline(value: object) -> str:
    r"""A value as text within a paragraph, a heading or a cell, with nothing that marks it up.

    >>> print(inline("a | **b**"))
    a \| \*\*b\*\*
    """
    return _SPECIAL.sub(r"\\\g<0>", plain(value))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A pipe table; the first column is text, the others are aligned to the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    cells = [[inline(x) for x in header], rule, *([inline(x) for x in row] for row in rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)
