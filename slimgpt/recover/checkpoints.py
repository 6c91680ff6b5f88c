"""The training checkpoints that transformers' Trainer writes: only whole ones are gone on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.safety import read_json
from slimgpt.checkpoint.writer import sync, write_text_durably
from slimgpt.errors import IntegrityError

_WHOLE = "slimgpt-whole.json"


def keep_only(checkpoint: Path) -> None:
    """Makes a checkpoint durable, says so with the digests of its files, and drops the others."""
    files = [path for path in sorted(checkpoint.iterdir()) if path.is_file()]
    for path in files:
        sync(path)
    digests = {path.name: file_sha256(path) for path in files}
    write_text_durably(checkpoint / _WHOLE, json.dumps(digests))
    sync(checkpoint.parent)
    for other in _all(checkpoint.parent):
        if other != checkpoint:
            shutil.rmtree(other)


def last_whole(directory: Path) -> tuple[int, Path | None]:
    """Optimiser steps done and the newest whole checkpoint; unfinished ones are thrown away.

    Raises:
        IntegrityError: one was damaged since it was written.
    """
    found: dict[int, Path] = {}
    for path in _all(directory):
        step = path.name.removeprefix("checkpoint-")
        if step.isdecimal() and (path / _WHOLE).exists():
            found[int(step)] = path
        else:
            shutil.rmtree(path)
    if not found:
        return 0, None
    newest = max(found)
    _require_undamaged(found[newest])
    return newest, found[newest]


def _all(directory: Path) -> list[Path]:
    return [path for path in directory.glob("checkpoint-*") if path.is_dir()]


def _require_undamaged(checkpoint: Path) -> None:
    try:
        digests = read_json(checkpoint / _WHOLE)
        whole = all(file_sha256(checkpoint / n) == digest for n, digest in digests.items())
    except (IntegrityError, OSError):
        whole = False
    if not whole:
        raise IntegrityError(f"{checkpoint} is damaged: start again with --fresh")
