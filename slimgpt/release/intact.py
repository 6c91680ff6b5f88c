"""Whether the files of a checkpoint are those that its manifest lists."""

from __future__ import annotations

from pathlib import Path

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.errors import IntegrityError
from slimgpt.release.manifest import read_manifest


def require_intact(directory: Path) -> None:
    """Compares every file of a work directory's checkpoint with its manifest.

    Raises:
        IntegrityError: a file is missing or was changed since it was written.
    """
    manifest = read_manifest(directory) or {}
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise IntegrityError(f"{directory / MANIFEST} is damaged: start again with --fresh")
    for name, digest in files.items():
        path = directory / name
        if not path.is_file() or file_sha256(path) != digest:
            raise IntegrityError(f"{path} is damaged: start again with --fresh")
