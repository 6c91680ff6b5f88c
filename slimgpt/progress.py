"""What long work tells whoever is watching: stages, steps, and one record a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """A watcher of long work. Stages do not nest."""

    def start(self, stage: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def advance(self, steps: int = 1) -> None:
        """Steps of the current stage are done."""

    def finish(self) -> None:
        """The current stage is over."""

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        """Something worth a line in a log file."""

    def message(self, text: str) -> None:
        """Something to tell a person."""


class Silent:
    """Watches nothing: the default of the Python API."""

    def start(self, stage: str, total: int) -> None: ...

    def advance(self, steps: int = 1) -> None: ...

    def finish(self) -> None: ...

    def record(self, event: str, fields: Mapping[str, Any]) -> None: ...

    def message(self, text: str) -> None: ...


class Part:
    """One part of a longer job: its stages are told under the part's name and number."""

    def __init__(self, whole: Progress, name: str, number: int, parts: int) -> None:
        self._whole, self._prefix = whole, f"[{number}/{parts}] {name}: "

    def start(self, stage: str, total: int) -> None:
        self._whole.start(self._prefix + stage, total)

    def advance(self, steps: int = 1) -> None:
        self._whole.advance(steps)

    def finish(self) -> None:
        self._whole.finish()

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        self._whole.record(event, fields)

    def message(self, text: str) -> None:
        self._whole.message(text)


@contextmanager
def stage(progress: Progress, name: str, total: int) -> Iterator[None]:
    """Runs a block as one stage."""
    progress.start(name, total)
    try:
        yield
    finally:
        progress.finish()
