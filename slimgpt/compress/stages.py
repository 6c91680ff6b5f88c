"""What a pipeline has finished: a durable record a stage, so that a second run does not redo it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.safety import read_json
from slimgpt.checkpoint.writer import write_text_durably
from slimgpt.errors import IntegrityError
from slimgpt.workspace import Workspace


class Stages:
    """The stages of one job, in its work directory.

    Attributes:
        seconds: wall time of each stage that ran, in this process or an earlier one.
        reused: stages whose record an earlier run had left.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._directory = workspace.directory
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []

    def run(
        self, name: str, key: Mapping[str, Any], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The outcome of a stage, from its record or by doing its work.

        Args:
            name: of the stage.
            key: everything that decides the outcome; a record made under another key is redone.
            work: gives the outcome, as JSON.

        Raises:
            IntegrityError: the record is damaged.
        """
        path = self._directory / f"{name}.json"
        wanted = _sha256(key)
        if path.exists():
            record = _read(path)
            self.seconds[name] = record["seconds"]
            if record["key"] == wanted:
                self.reused.append(name)
                return record["outcome"]  # type: ignore[no-any-return]
        started = time.monotonic()
        outcome = work()
        self.seconds[name] = time.monotonic() - started
        record = {"key": wanted, "seconds": self.seconds[name], "outcome": outcome}
        write_text_durably(path, json.dumps(record | {"sha256": _sha256(record)}))
        return outcome


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except IntegrityError:
        record = {}
    if record.pop("sha256", None) != _sha256(record):
        raise IntegrityError(f"{path} is damaged: start again with --fresh")
    return record


def _sha256(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
