"""A file as a recipe names it, and where it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

_LOOKS_LIKE_A_FILE = re.compile(r"[/\\]|^[.~]|\.(csv|gz|jsonl?|parquet|pem|txt|ya?ml)$")


class Written(str):
    """Text that remembers the folder which file names in it are relative to."""

    __slots__ = ("folder",)

    folder: Path

    def __new__(cls, text: str, folder: Path) -> Written:
        made = super().__new__(cls, text)
        made.folder = folder
        return made


@dataclass(frozen=True, slots=True)
class FileName:
    """A file, or where names are allowed too (hub sets, tasks) one of these.

    Two are equal if they are written the same: a recipe means the same wherever it lies.

    Attributes:
        written: as it stands in the recipe.
        folder: what ``written`` is relative to: the recipe's folder, or the working directory.
    """

    written: str
    folder: Path = field(default=Path(), compare=False)

    @property
    def path(self) -> Path:
        return self.folder / Path(self.written).expanduser()

    @property
    def looks_like_a_file(self) -> bool:
        """Whether no name of a hub set or a task would be written so."""
        return bool(_LOOKS_LIKE_A_FILE.search(self.written))

    @property
    def source(self) -> str:
        """The path; or what is written, if that is a bare name and no such file exists."""
        named = not self.looks_like_a_file and not present(self.path)
        return self.written if named else str(self.path)

    @property
    def label(self) -> str:
        """As written, but of an absolute path the name alone: for what is published."""
        path = Path(self.written)
        return path.name if path.is_absolute() or self.written.startswith("~") else self.written


def is_kind(path: Path, kind: Callable[[Path], bool]) -> bool:
    """``Path.is_file`` and the like, False where the system refuses even to look."""
    try:
        return kind(path)
    except (OSError, ValueError):  # a name longer than it takes, say
        return False


def present(path: Path) -> bool:
    """Whether anything is there."""
    return is_kind(path, Path.exists)


def _file_name(value: Any) -> FileName:
    if isinstance(value, FileName):
        return value
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("file_name", "no name")
    name = FileName(str(value), getattr(value, "folder", Path()))
    try:
        name.path.is_absolute()
    except RuntimeError:  # ~stranger/
        raise ValueError(f"{value.split('/')[0]} is no user's home") from None
    return name


_READ = BeforeValidator(_file_name)
_WRITTEN = PlainSerializer(lambda name: name.label, return_type=str)

File = Annotated[FileName, _READ, _WRITTEN, WithJsonSchema({"type": "string", "format": "path"})]
"""A field of a recipe that names a file or a folder."""

Source = Annotated[
    FileName, _READ, _WRITTEN, WithJsonSchema({"type": "string", "format": "path or name"})
]
"""A field of a recipe that names a file, a hub set or a task."""
