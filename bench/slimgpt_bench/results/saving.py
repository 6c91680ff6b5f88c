"""Writing a result so that its directory appears complete, on the disk, or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.writer import publish, write_json
from slimgpt.destination import require_writable
from slimgpt.errors import UsageError
from slimgpt_bench.results.checking import require_schema
from slimgpt_bench.results.rows import write_table

RESULT, TABLE, REQUESTS = "result.json", "result.csv", "requests.jsonl"


def require_free(directory: Path) -> None:
    """Refuses a ``--save`` that exists or can't be made: to be asked before measuring.

    Raises:
        UsageError: with what stands in the way.
    """
    if directory.name in ("", ".."):
        raise UsageError(f"--save {directory} names no new directory: give one that does not exist")
    try:
        taken = directory.exists() or directory.is_symlink()
    except OSError as reason:  # a name too long, a folder that can't be searched
        raise UsageError(f"--save {directory}: {reason.strerror}") from None
    if taken:
        raise UsageError(f"--save {directory} exists: give a directory that does not")
    require_writable(directory.parent, f"--save {directory}")


def save(
    directory: Path,
    document: Mapping[str, Any],
    requests: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Writes ``result.json``, ``result.csv``, ``requests.jsonl`` and, of loads, llm-d reports.

    Args:
        directory: must not exist; its parents are made.
        document: as :func:`slimgpt_bench.results.envelope` makes it.
        requests: raw records, one a line.

    Raises:
        UsageError: ``directory`` exists or can't be made.
        ValueError: the document breaks our own schema, holds NaN or something that is no JSON.
    """
    require_free(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        _fill(work, document, requests)
        work.chmod(0o755)  # made for its owner alone
        publish(work, directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _fill(
    work: Path, document: Mapping[str, Any], requests: Iterable[Mapping[str, Any]] | None
) -> None:
    text = json.dumps(document, allow_nan=False)
    require_schema(text)
    write_table(work / TABLE, document)
    if requests is not None:
        records = list(requests)
        with (work / REQUESTS).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(x, allow_nan=False) + "\n" for x in records)
        if document["kind"] == "load":
            from slimgpt_bench.results.llm_d import write_reports

            write_reports(work, json.loads(text), records)
    files = {path.name: file_sha256(path) for path in sorted(work.iterdir())}
    write_json(work / RESULT, {**json.loads(text), "files": files})
