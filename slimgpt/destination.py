"""Where a result may go: an OUT that does not exist, in a folder that can take it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.errors import UsageError
from slimgpt.release.manifest import read_manifest
from slimgpt.workspace import is_work, work_directory


def require_absent(out: Path) -> None:
    """Refuses an OUT that exists, unless a killed run had just published it.

    Raises:
        UsageError: OUT exists or can't be made, or something else lies where the run would work.
    """
    if out.name in ("", ".."):
        raise UsageError(f"OUT {out} names no new directory: give one that does not exist")
    try:
        taken = out.exists() or out.is_symlink()
        work = work_directory(out)
        busy = work.exists() or work.is_symlink()
    except OSError as reason:  # a name too long, a folder that can't be searched
        raise UsageError(f"OUT {out}: {reason.strerror}") from None
    if taken and not (is_work(work) and (out / MANIFEST).is_file()):
        raise exists(out)
    if busy and not is_work(work):
        raise UsageError(
            f"{work}, where the run would work, exists and is no unfinished run: move it away or "
            "give another OUT"
        )
    require_writable(out.parent, f"OUT {out}")


def require_writable(folder: Path, what: str) -> None:
    """Refuses a folder in which nothing can be written, or that can't be made.

    Args:
        folder: need not exist.
        what: is to be written there, as the user gave it.

    Raises:
        UsageError: with what stands in the way.
    """
    try:
        what.encode()  # not every library below takes other names
        home = next(p for p in (folder, *folder.absolute().parents) if p.exists() or p.is_symlink())
    except UnicodeEncodeError:
        raise UsageError(f"{what} is no UTF-8: give another name") from None
    except OSError as reason:  # a name too long, a folder that can't be searched
        raise UsageError(f"{what}: {reason.strerror}") from None
    if not home.is_dir():
        kind = "a file" if home.exists() else "a link to nothing"
        raise UsageError(f"{what} can't be made: {home} is {kind}")
    if not os.access(home, os.W_OK | os.X_OK):
        raise UsageError(f"{what} can't be made: {home} is not writable")


def require_published(out: Path, fingerprint: Mapping[str, Any]) -> None:
    """Refuses an OUT that is not the result of this very run, whatever lies beside it.

    Raises:
        UsageError: its manifest tells of another recipe, source or version.
    """
    manifest = read_manifest(out) or {}
    source = manifest.get("source")
    found = manifest | {"source": source.get("digest") if isinstance(source, dict) else None}
    if any(found.get(key) != value for key, value in fingerprint.items()):
        raise exists(out)


def exists(out: Path) -> UsageError:
    """The error for an OUT that is there already."""
    return UsageError(f"{out} exists: give an OUT that does not, or remove it first")


def require_apart(model: Path, out: Path) -> None:
    """Refuses an OUT within MODEL, which stays as it is, and a MODEL that the run would clear away.

    Raises:
        UsageError: OUT lies inside MODEL, or MODEL inside OUT.partial.
    """
    if out.resolve().is_relative_to(model.resolve()):
        raise UsageError(f"OUT {out} lies inside MODEL {model}: give an OUT outside it")
    work = work_directory(out)
    if model.resolve().is_relative_to(work.resolve()):
        raise UsageError(
            f"MODEL {model} lies inside {work}, where the run would work: give another OUT"
        )
