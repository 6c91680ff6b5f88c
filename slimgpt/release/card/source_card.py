"""What a checkpoint's README.md says that must be carried on: its licence and its language.

Cards come from anyone. Only the blocks of the front matter that are wanted are parsed, as plain
strings, and whatever is damaged counts as not said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import CARD
from slimgpt.release.card.markdown import plain

_READ_BYTES = 2**22
_BLOCK_CHARACTERS = 2**16
_MOST = 200
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", re.DOTALL)

_SPDX = {
    name.lower(): name
    for name in (
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC-BY-4.0",
        "CC-BY-NC-4.0",
        "CC-BY-NC-SA-4.0",
        "CC-BY-SA-4.0",
        "CC0-1.0",
        "MIT",
    )
}


@dataclass(frozen=True, slots=True)
class SourceCard:
    """Entries of a card's front matter; what it does not say is None or empty.

    Attributes:
        license: the hub's identifier, like ``apache-2.0`` or ``other``.
        license_name: of a licence that the hub does not list.
        license_link: where its text is.
        language: codes.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()

    @property
    def licence(self) -> str | None:
        """The licence as people call it."""
        return self.license_name or self.license

    @property
    def spdx(self) -> str | None:
        """Its SPDX identifier, where the hub's stands for exactly one."""
        return _SPDX.get((self.license or "").lower())


def read_source_card(directory: Path) -> SourceCard:
    """The card of a checkpoint directory; an empty one where there is none."""
    path = directory / CARD
    if not path.is_file():
        return SourceCard()
    with path.open("rb") as file:
        text = file.read(_READ_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
    found = _FRONT_MATTER.match(text)
    head = found[1] if found else ""
    named = {key: _one(_entry(head, key)) for key in ("license", "license_name", "license_link")}
    codes = _several(_entry(head, "language"))
    return SourceCard(**named, language=tuple(c for c in codes if _LANGUAGE.fullmatch(c)))


def _entry(head: str, key: str) -> Any:
    """The value of a top-level key: a string, or lists and mappings of strings."""
    import yaml

    block = re.search(rf"^{key}[ \t]*:.*(?:\r?\n(?:[ \t-].*)?)*", head, re.MULTILINE)
    if not block or len(block[0]) > _BLOCK_CHARACTERS:
        return None
    try:
        # Strings only: the code of Norwegian is `no`, which is no boolean.
        document = yaml.load(block[0], Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return document.get(key) if isinstance(document, dict) else None


def _one(value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return plain(value) or None if isinstance(value, str) else None


def _several(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [v.strip() for v in values[:_MOST] if isinstance(v, str)]
