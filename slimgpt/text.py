"""Reading text for calibration and evaluation: plain files, JSON and JSON lines, also gzipped."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from slimgpt.errors import UsageError

FORMATS = ".txt, .jsonl or .json, each also with .gz"


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text, or token ids that were made before (``text`` is then empty)."""

    text: str
    ids: tuple[int, ...] | None = None


def read_documents(path: Path) -> list[Document]:
    """All documents of a file.

    A plain file is one document. Rows of JSON have ``text``, or ``instruction`` with optional
    ``input`` and ``output`` (Alpaca), or ``input_ids``.

    Raises:
        UsageError: the file is missing, unreadable or empty, or a row has none of these.
    """
    if not path.is_file():
        raise UsageError(f"{path} is no file: give text as {FORMATS}")
    kind = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    try:
        with _open(path) as file:
            documents = list(_documents(file, kind, path))
    except (UnicodeDecodeError, OSError, EOFError) as reason:
        raise UsageError(f"{path} is no readable UTF-8 text: {reason}") from None
    if not any(d.text.strip() or d.ids for d in documents):
        raise UsageError(f"{path} is empty: give a file with text")
    return documents


def document(row: Any, origin: str) -> Document:
    """The document of one row of data.

    Raises:
        UsageError: the row has no known field.
    """
    if isinstance(row, Mapping):
        ids = row.get("input_ids")
        if isinstance(ids, list) and all(isinstance(i, int) for i in ids):
            return Document("", tuple(ids))
        if isinstance(row.get("text"), str):
            return Document(row["text"])
        if isinstance(row.get("instruction"), str):
            parts = [row["instruction"], row.get("input"), row.get("output")]
            return Document("\n".join(str(p) for p in parts if p))
    raise UsageError(
        f"{origin} has no text: a row needs text, input_ids, or instruction, input and output"
    )


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8", newline="\n")


def _documents(file: IO[str], kind: str, path: Path) -> Iterator[Document]:
    if kind not in (".json", ".jsonl"):
        yield Document(file.read())
        return
    try:
        if kind == ".json":
            rows = json.load(file)
            yield from (document(row, f"{path} row {i}") for i, row in enumerate(rows, 1))
        else:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield document(json.loads(line), f"{path} line {number}")
    except ValueError as reason:
        if isinstance(reason, UnicodeDecodeError):
            raise
        raise UsageError(f"{path} is no valid JSON: {reason}") from None
