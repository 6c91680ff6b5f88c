"""What a pipeline has finished: a durable record a stage, so that a second run does not redo it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from slimgpt.checkpoint.safety import read_json
from slimgpt.checkpoint.writer import write_text_durably
from slimgpt.errors import IntegrityError

_BEGUN = ".begun"


class Stages:
    """The stages of one job, in its work directory.

    Attributes:
        seconds: wall time of each stage that ran, in this process or an earlier one, to its end or
            to its error.
        reused: stages whose record an earlier run had left.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
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
        record = self._record(name)
        if record is None or record["key"] != _sha256(key):
            return self.run_anew(name, key, work)
        self._reuse(name, record)
        return record["outcome"]  # type: ignore[no-any-return]

    def run_anew(
        self, name: str, key: Mapping[str, Any], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Does the work of a stage and writes its record, whatever an earlier run left."""
        started = time.monotonic()
        try:
            outcome = work()
        finally:
            self.seconds[name] = time.monotonic() - started
        self._write(name, {"key": _sha256(key), "seconds": self.seconds[name], "outcome": outcome})
        return outcome

    def begin(self, name: str, key: Mapping[str, Any]) -> None:
        """Notes that a stage writes outside the work directory from now on."""
        self._write(name + _BEGUN, {"key": _sha256(key)})

    def begun(self, name: str, key: Mapping[str, Any]) -> bool:
        """Whether an earlier run noted so, under the same key.

        Raises:
            IntegrityError: the record is damaged.
        """
        record = self._record(name + _BEGUN)
        return record is not None and record["key"] == _sha256(key)

    def finished(self, name: str) -> dict[str, Any] | None:
        """The outcome of a stage that an earlier run finished, under any key; None if none did.

        Raises:
            IntegrityError: the record is damaged.
        """
        record = self._record(name)
        if record is None:
            return None
        self._reuse(name, record)
        return record["outcome"]  # type: ignore[no-any-return]

    def _path(self, name: str) -> Path:
        return self._directory / f"{quote(name, safe=' ')}.json"  # a name may be that of a file

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        sealed = json.dumps({**record, "sha256": _sha256(record)}, allow_nan=False)
        write_text_durably(self._path(name), sealed)

    def _reuse(self, name: str, record: Mapping[str, Any]) -> None:
        self.seconds[name] = record["seconds"]
        self.reused.append(name)

    def _record(self, name: str) -> dict[str, Any] | None:
        path = self._path(name)
        if not path.exists():
            return None
        try:
            record = read_json(path)
        except IntegrityError:
            record = {}
        if record.pop("sha256", None) != _sha256(record):
            raise IntegrityError(f"{path} is damaged: start again with --fresh")
        return record


def _sha256(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
