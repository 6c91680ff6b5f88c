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


@contextmanager
def stage(progress: Progress, name: str, total: int) -> Iterator[None]:
    """Runs a block as one stage."""
    progress.start(name, total)
    try:
        yield
    finally:
        progress.finish()
