"""SHA-256 of files and of whole sources, and the search for values that are no numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from slimgpt.checkpoint.reader import MANIFEST, Checkpoint
from slimgpt.errors import IntegrityError


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digest(checkpoint: Checkpoint) -> str:
    """One SHA-256 over config, weights and sidecars of a checkpoint, names included.

    Two directories with the same files have the same digest wherever they lie.
    """
    directory = checkpoint.directory
    paths = {str(p): directory / p for p in checkpoint.sidecars()}
    paths |= {str(p.relative_to(directory)): p for p in checkpoint.files}
    paths["config.json"] = directory / "config.json"
    paths.pop(MANIFEST, None)
    whole = hashlib.sha256()
    for name in sorted(paths):
        whole.update(f"{file_sha256(paths[name])}  {name}\n".encode())
    return whole.hexdigest()


def require_finite(checkpoint: Checkpoint, advance: Callable[[int], None]) -> None:
    """Reads every weight once and looks for NaN and infinity.

    Args:
        checkpoint: the source.
        advance: told the bytes of each tensor that has been read.

    Raises:
        IntegrityError: a weight holds one; the message names it.
    """
    for name, tensor in checkpoint.stored():
        if not tensor.isfinite().all():
            raise IntegrityError(
                f"{checkpoint.directory}: {name} holds NaN or infinite values; the checkpoint is "
                "damaged"
            )
        advance(tensor.nbytes)
