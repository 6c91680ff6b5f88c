"""Whether the files of a work directory's checkpoint are those that its manifest lists."""

from __future__ import annotations

from pathlib import Path

from slimgpt.errors import IntegrityError
from slimgpt.progress import Silent
from slimgpt.release.verify.checks import check_files
from slimgpt.release.verify.schema import load_manifest


def require_intact(directory: Path) -> None:
    """Compares every file with the manifest.

    Raises:
        IntegrityError: a file is missing, new or was changed since it was written.
    """
    try:
        check = check_files(directory, load_manifest(directory)[0], Silent())
    except IntegrityError as reason:
        raise IntegrityError(f"{reason}: start again with --fresh") from None
    if check.status != "passed":
        raise IntegrityError(f"{directory}: {check.detail}: start again with --fresh")
