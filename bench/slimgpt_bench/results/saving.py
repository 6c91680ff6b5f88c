"""Writing a result so that its directory appears complete, on the disk, or not at all.

A measurement may have taken hours: what it found is kept even where it can't be a result.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.writer import publish, write_json
from slimgpt.destination import require_writable
from slimgpt.errors import EnvironmentProblem, Unresolved, UsageError
from slimgpt_bench.results.checking import require_schema
from slimgpt_bench.results.rows import write_table

RESULT, TABLE, REQUESTS = "result.json", "result.csv", "requests.jsonl"
UNCHECKED = "unchecked.json"
"""What was measured, where it breaks the schema: kept, and never read as a result."""

_MOST_TOLD = 300
_MISTAKES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

Document = Mapping[str, Any]
Records = Sequence[Mapping[str, Any]]


def require_free(directory: Path) -> None:
    """Refuses a ``--save`` that exists or can't be made: to be asked before measuring.

    Raises:
        UsageError: with what stands in the way.
    """
    if directory.name in ("", ".."):
        raise UsageError(f"--save {directory} names no new directory: give one that does not exist")
    try:
        taken = _taken(directory)
    except OSError as reason:  # a name too long, a folder that can't be searched
        raise UsageError(f"--save {directory}: {reason.strerror}") from None
    if taken:
        raise UsageError(f"--save {directory} exists: give a directory that does not")
    require_writable(directory.parent, f"--save {directory}")


def save(
    directory: Path,
    document: Document,
    requests: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Writes ``result.json``, ``result.csv``, ``requests.jsonl`` and, of loads, llm-d reports.

    Args:
        directory: must not exist; its parents are made.
        document: as :func:`slimgpt_bench.results.envelope` makes it.
        requests: raw records, one a line.

    Raises:
        UsageError: ``directory`` exists by now; the result lies beside it.
        EnvironmentProblem: it can't be written; the result lies where other files of the system's
            temporary directory do.
        Unresolved: the document breaks our own schema, or holds NaN or something that is no JSON.
            What was measured is in ``unchecked.json`` and ``requests.jsonl`` of ``directory``.
    """
    records = None if requests is None else list(requests)
    try:
        place, mistake = _written(directory, document, records)
    except OSError as reason:
        home = Path(tempfile.mkdtemp(prefix="slimgpt-result-"))
        place, _ = _written(home / "result", document, records)
        raise EnvironmentProblem(
            f"--save {directory} can't be written: {reason.strerror or reason}: what was measured "
            f"is in {place}: move it from there"
        ) from None
    if mistake:
        raise Unresolved(
            f"--save {directory}: {mistake}. This is a mistake of slimgpt: please report it; what "
            f"was measured is in {place}"
        )
    if place != directory:
        raise UsageError(
            f"--save {directory} was made by somebody else in the meantime: the result is in "
            f"{place}"
        )


def _taken(directory: Path) -> bool:
    return directory.exists() or directory.is_symlink()


def _written(
    directory: Path, document: Document, records: Records | None
) -> tuple[Path, str | None]:
    """Where it is, and what is wrong with it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".slimgpt-result-", dir=directory.parent))
    try:
        mistake = _fill(work, document, records)
        work.chmod(0o755)  # made for its owner alone
        place = _free(directory)
        publish(work, place)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return place, mistake


def _free(directory: Path) -> Path:
    """The directory, or where it has come to be in the meantime one beside it."""
    place, number = directory, 1
    while _taken(place):
        number += 1
        place = directory.with_name(f"{directory.name}-{number}")
    return place


def _fill(work: Path, document: Document, records: Records | None) -> str | None:
    """All files, or as much as can be told of what is wrong."""
    try:
        text = json.dumps(document, allow_nan=False)
        require_schema(text)
        _write_requests(work, records, strict=True)
    except (*_MISTAKES, RecursionError) as reason:
        _write_requests(work, records, strict=False)
        kept = json.dumps(document, indent=2, default=str, skipkeys=True)
        (work / UNCHECKED).write_text(kept + "\n", "utf-8")
        return f"what was measured is no result: {_told(reason)}"
    checked = json.loads(text)
    mistake = _derived(work, checked, records)
    files = {path.name: file_sha256(path) for path in sorted(work.iterdir())}
    write_json(work / RESULT, {**checked, "files": files})
    return mistake


def _write_requests(work: Path, records: Records | None, *, strict: bool) -> None:
    if records is None:
        return
    with (work / REQUESTS).open("w", encoding="utf-8") as file:
        for x in records:
            made = json.dumps(x, allow_nan=False) if strict else json.dumps(x, default=str)
            file.write(made + "\n")


def _derived(work: Path, document: Document, records: Records | None) -> str | None:
    """What follows from the result; a mistake in it is told, and leaves the result as it is."""

    def reports() -> None:
        from slimgpt_bench.results.llm_d import write_reports

        if records is not None and document["kind"] == "load":
            write_reports(work, document, records)

    made: tuple[tuple[str, str, Callable[[], None]], ...] = (
        ("result.csv", TABLE, lambda: write_table(work / TABLE, document)),
        ("the llm-d reports", "llm-d*", reports),
    )
    wrong = []
    for name, files, make in made:
        try:
            make()
        except _MISTAKES as reason:
            for path in work.glob(files):
                path.unlink()
            wrong.append(f"{name} can't be made: {_told(reason)}")
    return "; ".join(wrong) or None


def _told(reason: Exception) -> str:
    said = f"{reason}" if isinstance(reason, ValueError) else repr(reason)
    return said[:_MOST_TOLD]
