"""``slimgpt bench load`` in this process, with short requests, and what it told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt_bench.load.job import LoadResult

SHORT = ("--prompt", "6", "--output", "4", "--vocabulary", "50", "--quiet")
CLOSED = ("--concurrency", "2", "--requests", "12", "--warmup", "0")


@dataclass(frozen=True)
class Told:
    """How a command ended.

    Attributes:
        code: its exit code.
        document: what it printed; empty for none.
        lines: of its errors.
    """

    code: int
    document: Mapping[str, Any]
    lines: list[str]


CLIENT = "client was saturated"
ATTEMPTS = 4


class Load:
    """Runs the command with ``--json``."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, url: str, *options: object) -> Told:
        code = run(["bench", "load", url, *SHORT, "--json", *map(str, options)])
        out, err = self._capture.readouterr()
        return Told(code, json.loads(out) if out else {}, err.splitlines())

    def calm(self, url: str, *options: object) -> Told:
        """Likewise; again where a busy machine kept the client from running, and it says so."""
        for _ in range(ATTEMPTS):
            told = self(url, *options)
            if not any(CLIENT in line for line in told.lines):
                break
        return told


def calm(measure: Callable[[], LoadResult]) -> LoadResult:
    """A measurement, again where a busy machine kept the client from running."""
    for _ in range(ATTEMPTS):
        found = measure()
        if not any(level.client.saturated for level in found.levels):
            break
    return found
