"""``slimgpt bench load`` in this process, with short requests, and what it told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from slimgpt.cli import run

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


class Load:
    """Runs the command with ``--json``."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, url: str, *options: object) -> Told:
        code = run(["bench", "load", url, *SHORT, "--json", *map(str, options)])
        out, err = self._capture.readouterr()
        return Told(code, json.loads(out) if out else {}, err.splitlines())
