"""Reading a saved result back, from anyone: checked before it is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.errors import IntegrityError, UsageError
from slimgpt_bench.results.checking import parsed, require_schema
from slimgpt_bench.results.documents import KINDS, SCHEMA
from slimgpt_bench.results.saving import RESULT, UNCHECKED


def read(path: Path) -> dict[str, Any]:
    """A saved result, or the document that a measurement printed with ``--json``.

    Args:
        path: what ``--save`` named, the ``result.json`` in it, or another file of such JSON.

    Raises:
        UsageError: it is no result, or one of another schema version or an unknown kind.
        IntegrityError: it is damaged, or its other files are not what they were.
    """
    file = path / RESULT if path.is_dir() else path
    if not file.is_file():
        raise _no_result(path)
    found = read_json(file)
    if "schema" not in found or "kind" not in found:
        raise _no_result(path)
    if found["schema"] != SCHEMA or found["schema"] is True:
        raise UsageError(
            f"{path} is of schema version {found['schema']!r:.40} and this slimgpt reads version "
            f"{SCHEMA}: measure again, or read it with the slimgpt that made it "
            f"({found.get('slimgpt_version')!s:.40})"
        )
    if found["kind"] not in KINDS:
        raise UsageError(
            f"{path} is of kind {found['kind']!r:.40}: this slimgpt knows {', '.join(KINDS)}"
        )
    document = _checked(file)
    _require_unchanged(file, document.pop("files", None) or {})
    return document


def _checked(file: Path) -> dict[str, Any]:
    text = file.read_text("utf-8")
    try:
        document: dict[str, Any] = parsed(text)
        require_schema(text)
    except ValueError as reason:
        raise IntegrityError(f"{file} is damaged: {reason}") from None
    return document


def _require_unchanged(file: Path, files: dict[str, str]) -> None:
    directory = file.parent
    for name, digest in files.items():
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise IntegrityError(
                f"{name!r:.80} of {directory} is missing: copy the whole directory"
            )
        if file_sha256(inside(directory, path)) != digest:
            raise IntegrityError(f"{name} of {directory} is not the file that was saved")


def _no_result(path: Path) -> UsageError:
    if (path / UNCHECKED).is_file():
        return UsageError(
            f"{path} is no result: what was measured broke the schema when it was saved, and is "
            f"kept in {UNCHECKED} for a human reader: measure again with a mended slimgpt"
        )
    return UsageError(f"{path} is no saved result: give a directory that --save made")
