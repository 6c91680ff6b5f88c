"""The files that claims were measured on, found again by their SHA-256."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.errors import UsageError

_MOST_FILES = 10_000


def find_files(wanted: Mapping[str, str], data: Sequence[Path]) -> dict[str, Path]:
    """Paths by digest; what is not found is left out.

    Args:
        wanted: names by SHA-256, as a manifest has them: relative paths, or file names. They say
            where to look first, below the working directory too, and which suffix a file must
            have, as that decides how it is read.
        data: files, and folders that are searched to the bottom.

    Raises:
        UsageError: one of these does not exist, or holds too many files.
    """
    left = dict(wanted)
    found: dict[str, Path] = {}
    suffixes = {_suffix(name) for name in wanted.values()}
    names = {PurePosixPath(name).name for name in wanted.values()}
    listed = [path for place in data for path in _listed(place) if _suffix(path.name) in suffixes]
    likely = [*_named(wanted), *(path for path in listed if path.name in names)]
    for path in [*likely, *(path for path in listed if path.name not in names)]:
        if not left:
            break
        digest = file_sha256(path)
        if digest in left and _suffix(path.name) == _suffix(left[digest]):
            found[digest] = path
            del left[digest]
    return found


def _suffix(name: str) -> str:
    suffixes = PurePosixPath(name).suffixes
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def _named(wanted: Mapping[str, str]) -> Iterator[Path]:
    """Files below the working directory that have just the names of the manifest."""
    for name in wanted.values():
        path = Path(name)
        try:
            if not path.is_absolute() and ".." not in path.parts and path.is_file():
                yield path
        except (OSError, ValueError):  # no name that a file can have
            continue


def _listed(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UsageError(f"--data {place} does not exist: give a file, or a folder of files")
    found: list[Path] = []
    for folder, _, names in os.walk(place):
        found += (path for name in names if (path := Path(folder, name)).is_file())
        if len(found) > _MOST_FILES:
            raise UsageError(
                f"--data {place} holds more than {_MOST_FILES:,} files: give the folder of the "
                "texts, or the files themselves"
            )
    return sorted(found)
