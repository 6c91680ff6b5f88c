"""A recorded traffic: when each request came, how long its prompt was and its answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.errors import UsageError
from slimgpt.text import open_text
from slimgpt_bench.workload.lengths import LARGEST, Lengths

ROW = '{"at_s": 0.5, "prompt_tokens": 128, "output_tokens": 64}, or "prompt" instead of its tokens'


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request.

    Attributes:
        at_s: seconds from the first row's clock; what the first has is 0.
        output_tokens: of the answer.
        prompt_tokens: of the prompt; None where its text is given.
        prompt: its text.
    """

    at_s: float
    output_tokens: int
    prompt_tokens: int | None = None
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """All rows in order of time.

    Attributes:
        rows: at least one.
        digest: SHA-256 of the file.
    """

    rows: tuple[TraceRow, ...]
    digest: str

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last."""
        return self.rows[-1].at_s

    @property
    def rate_rps(self) -> float:
        """Mean arrivals a second; infinite for rows that all came at once."""
        if len(self.rows) < 2 or not self.duration_s:
            return math.inf
        return (len(self.rows) - 1) / self.duration_s

    def prompt_lengths(self) -> Lengths | None:
        """Of the rows that tell a length; None where none does."""
        found = [row.prompt_tokens for row in self.rows if row.prompt_tokens]
        return Lengths.empirical(found) if found else None

    def output_lengths(self) -> Lengths:
        return Lengths.empirical([row.output_tokens for row in self.rows])


def read_trace(path: Path, option: str = "--trace") -> Trace:
    """Reads a JSON-lines file, also gzipped.

    Raises:
        UsageError: it can't be read, has no rows, or a row is not what it should be; with its line.
    """
    origin = f"{option} {path}"
    if not path.is_file():
        raise UsageError(f"{origin} is no file: give lines like {ROW}")
    try:
        with open_text(path) as file:
            rows = [_row(line, f"{origin} line {n}") for n, line in _filled(file)]
    except (OSError, EOFError, UnicodeDecodeError) as reason:
        raise UsageError(f"{origin} can't be read: {reason}") from None
    if not rows:
        raise UsageError(f"{origin} has zero rows: give lines like {ROW}")
    rows.sort(key=lambda row: row.at_s)
    first = rows[0].at_s
    shifted = (
        TraceRow(row.at_s - first, row.output_tokens, row.prompt_tokens, row.prompt) for row in rows
    )
    return Trace(tuple(shifted), file_sha256(path))


def _filled(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, line


def _row(line: str, origin: str) -> TraceRow:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as reason:
        raise UsageError(f"{origin} is no JSON ({reason}): give {ROW}") from None
    if not isinstance(told, Mapping):
        raise UsageError(f"{origin} is no object: give {ROW}")
    at = told.get("at_s")
    if not isinstance(at, int | float) or isinstance(at, bool) or not 0 <= at < math.inf:
        raise UsageError(f"{origin}: at_s is {at!r}: give seconds, 0 or more")
    prompt = told.get("prompt")
    if prompt is not None and (not isinstance(prompt, str) or not prompt):
        raise UsageError(f"{origin}: prompt is {prompt!r}: give a text")
    return TraceRow(
        float(at),
        _tokens(told, "output_tokens", origin),
        None if prompt else _tokens(told, "prompt_tokens", origin),
        prompt,
    )


def _tokens(told: Mapping[str, Any], name: str, origin: str) -> int:
    value = told.get(name)
    if type(value) is not int or not 1 <= value <= LARGEST:
        raise UsageError(f"{origin}: {name} is {value!r}: give a whole number from 1")
    return value
