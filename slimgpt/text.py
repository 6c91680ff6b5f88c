"""Reading text for calibration and evaluation: plain files, JSON and JSON lines, also gzipped."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from slimgpt.errors import UsageError

FORMATS = ".txt, .jsonl or .json, each also with .gz"


@dataclass(frozen=True, slots=True)
class Exchange:
    """An instruction, what it is about (may be empty), and the answer (may be empty)."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text, or token ids that were made before (``text`` is then empty).

    Attributes:
        text: all of it; of an exchange, its parts on lines of their own.
        ids: token ids.
        exchange: what is asked and what is to be answered, where the row tells them apart.
    """

    text: str
    ids: tuple[int, ...] | None = None
    exchange: Exchange | None = None


def read_documents(path: Path, option: str) -> list[Document]:
    """All documents of a file.

    A plain file is one document. Rows of JSON have ``text``, or ``instruction`` with optional
    ``input`` and ``output`` (Alpaca), or ``input_ids``.

    Args:
        path: the file.
        option: the flag that named it, for messages.

    Raises:
        UsageError: the file is missing, unreadable or empty, or a row has none of these.
    """
    origin = f"{option} {path}"
    if not path.is_file():
        raise UsageError(f"{origin} is no file: give text as {FORMATS}")
    kind = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    try:
        with open_text(path) as file:
            documents = list(_documents(file, kind, origin))
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as reason:
        raise UsageError(f"{origin} is no readable UTF-8 text: {reason}") from None
    if not any(d.text.strip() or d.ids for d in documents):
        raise UsageError(f"{origin} is empty: give a file with text")
    return documents


def document(row: Any, origin: str) -> Document:
    """The document of one row of data.

    Raises:
        UsageError: the row has no known field.
    """
    if isinstance(row, Mapping):
        ids = row.get("input_ids")
        if isinstance(ids, list) and all(type(i) is int for i in ids):
            return Document("", tuple(ids))
        if isinstance(row.get("text"), str):
            return Document(row["text"])
        if isinstance(row.get("instruction"), str):
            exchange = Exchange(
                row["instruction"], str(row.get("input") or ""), str(row.get("output") or "")
            )
            parts = (exchange.instruction, exchange.input, exchange.output)
            return Document("\n".join(p for p in parts if p), exchange=exchange)
    raise UsageError(
        f"{origin} has no text: a row needs text, input_ids, or instruction, input and output"
    )


def open_text(path: Path) -> IO[str]:
    """A UTF-8 file, also gzipped, as it is; only the mark that some editors put in front goes."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")
    return path.open(encoding="utf-8-sig", newline="\n")


def _documents(file: IO[str], kind: str, origin: str) -> Iterator[Document]:
    if kind == ".jsonl":
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{origin} line {number}"
                yield document(_parsed(line, where), where)
    elif kind == ".json":
        rows = _parsed(file.read(), origin)
        if not isinstance(rows, list):
            raise UsageError(f"{origin} holds no list of rows: give [{{...}}, ...] or .jsonl")
        yield from (document(row, f"{origin} row {i}") for i, row in enumerate(rows, 1))
    else:
        text = file.read()
        if "\0" in text:
            raise UsageError(f"{origin} is no text, it holds zero bytes: give {FORMATS}")
        yield Document(text)


def _parsed(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as reason:
        where = f"{reason.msg} at character {reason.pos}"
        raise UsageError(f"{origin} is no valid JSON: {where}") from None
    except (ValueError, RecursionError) as reason:  # numbers of thousands of digits, deep nesting
        raise UsageError(f"{origin} is no valid JSON: {reason}") from None
