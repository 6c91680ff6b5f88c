"""Prompts of files: conversations, instructions, prompts as they are, or plain text to cut up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.errors import UsageError
from slimgpt.text import open_text
from slimgpt.tokenizer import well_formed
from slimgpt_bench.workload.lengths import LARGEST

FORMATS = "ShareGPT conversations, Alpaca rows, rows with prompt or text (.json, .jsonl), or .txt"
_ASKS = ("human", "user")
_ANSWERS = ("gpt", "assistant", "chatgpt", "bing", "bard")
_ANSWER_KEYS = ("output", "completion", "response", "answer")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one request may ask.

    Attributes:
        text: of the prompt.
        answer: that stood beside it; empty where there is none.
        output_tokens: that the row asks for; None where it does not say.
    """

    text: str
    answer: str = ""
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A file of prompts.

    Attributes:
        name: of the file.
        digest: SHA-256 of it.
        samples: whole prompts; empty where there are only texts to be cut.
        texts: documents, windows of which are prompts.
        skipped: rows that ask nothing: conversations which begin with an answer, empty prompts.
    """

    name: str
    digest: str
    samples: tuple[Sample, ...]
    texts: tuple[str, ...]
    skipped: int


def read_dataset(path: Path, option: str = "--dataset") -> Dataset:
    """Reads prompts, also gzipped.

    Raises:
        UsageError: the file can't be read, holds no prompts, or mixes prompts with plain text.
    """
    origin = f"{option} {path}"
    if not path.is_file():
        raise UsageError(f"{origin} is no file: give {FORMATS}")
    try:
        with open_text(path) as file:
            rows = list(_rows(file.read(), _kind(path), origin))
    except (OSError, EOFError, UnicodeDecodeError) as reason:
        raise UsageError(f"{origin} can't be read: {reason}") from None
    samples = tuple(x for x in rows if isinstance(x, Sample) and x.text.strip())
    texts = tuple(x for x in rows if isinstance(x, str) and x.strip())
    if not samples and not texts:
        raise UsageError(f"{origin} has no prompts: give {FORMATS}")
    if samples and texts:
        raise UsageError(f"{origin} mixes prompts with rows of plain text: give one kind")
    kept = len(samples) + len(texts)
    return Dataset(path.name, file_sha256(path), samples, texts, len(rows) - kept)


def _kind(path: Path) -> str:
    suffixes = path.suffixes
    return suffixes[-2] if path.suffix == ".gz" and len(suffixes) > 1 else path.suffix


def _rows(text: str, kind: str, origin: str) -> Iterator[Sample | str | None]:
    if kind == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                where = f"{origin} line {number}"
                yield _row(_parsed(line, where), where)
    elif kind == ".json":
        found = _parsed(text, origin)
        if not isinstance(found, list):
            raise UsageError(f"{origin} holds no list of rows: give {FORMATS}")
        for number, row in enumerate(found, 1):
            yield _row(row, f"{origin} row {number}")
    elif "\0" in text:
        raise UsageError(f"{origin} is no text, it holds zero bytes: give {FORMATS}")
    else:
        yield well_formed(text)


def _parsed(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise UsageError(f"{origin} is no JSON: {reason}") from None


def _row(row: Any, origin: str) -> Sample | str | None:
    """A prompt, a text to cut prompts of, or None for a row that asks nothing."""
    if not isinstance(row, Mapping):
        raise UsageError(f"{origin} is no object: give {FORMATS}")
    turns = row.get("conversations", row.get("messages"))
    if isinstance(turns, list):
        return _conversation(turns)
    asked = row.get("output_tokens")
    if asked is not None and (type(asked) is not int or not 1 <= asked <= LARGEST):
        raise UsageError(f"{origin}: output_tokens is {asked!r}: give a whole number from 1")
    answer = next((row[k] for k in _ANSWER_KEYS if isinstance(row.get(k), str)), "")
    if isinstance(row.get("prompt"), str):
        return Sample(well_formed(row["prompt"]), well_formed(answer), asked)
    if isinstance(row.get("instruction"), str):
        parts = (row["instruction"], row.get("input"))
        whole = "\n".join(p for p in parts if isinstance(p, str) and p)
        return Sample(well_formed(whole), well_formed(answer), asked)
    if isinstance(row.get("text"), str):
        return well_formed(row["text"])
    raise UsageError(f"{origin} has no prompt: give {FORMATS}")


def _conversation(turns: Sequence[Any]) -> Sample | None:
    """The first question and its answer, as benchmarks of ShareGPT do."""
    told = [x for x in turns if isinstance(x, Mapping) and _said(x, "from", "role") != "system"]
    if not told or _said(told[0], "from", "role") not in _ASKS:
        return None
    answer = ""
    if len(told) > 1 and _said(told[1], "from", "role") in _ANSWERS:
        answer = _said(told[1], "value", "content")
    return Sample(well_formed(_said(told[0], "value", "content")), well_formed(answer))


def _said(turn: Mapping[str, Any], *names: str) -> str:
    return next((turn[name] for name in names if isinstance(turn.get(name), str)), "")
