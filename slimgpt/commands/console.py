"""What every verb shares: its options, and where results, progress and logs go.

Results go to stdout (one JSON document with ``--json``), all else to stderr or the log file.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import click
from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from slimgpt.errors import EnvironmentProblem, UsageError

_PLAIN_INTERVAL_S = 10.0
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
"""Text is printed as it is: a path may well hold ``[bold]``."""
_PIPE, _WIDEST = 120, 1000
LARGEST_SEED = 2**32 - 1


class Console:
    """Implements slimgpt.progress.Progress for a person, a pipe and a log file at once."""

    def __init__(self, *, as_json: bool, quiet: bool, log_file: Path | None) -> None:
        self.as_json = as_json
        self._quiet = quiet
        self._err = RichConsole(stderr=True, **_PLAIN)
        self._log = _open_log(log_file)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage, self._total, self._done = "", 0, 0
        self._started = self._told = 0.0

    def result(self, document: Mapping[str, Any], rendered: RenderableType) -> None:
        """Prints the outcome: the document with ``--json``, else what is made for people."""
        if self.as_json:
            click.echo(json.dumps(document, indent=2, allow_nan=False))
        else:
            RichConsole(width=_width(rendered), **_PLAIN).print(rendered)

    def message(self, text: str) -> None:
        if not self._quiet:
            self._err.print(text, soft_wrap=True)  # a path stays whole
        self.record("message", {"text": text})

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        if not self._log:
            return
        try:
            self._log.write(json.dumps({"time": time.time(), "event": event, **fields}) + "\n")
            self._log.flush()
        except OSError as reason:
            name = self._log.name
            self.close()
            raise EnvironmentProblem(
                f"--log-file {name} can't be written: {reason.strerror}"
            ) from None

    def start(self, stage: str, total: int) -> None:
        self._stage, self._total, self._done = stage, total, 0
        self._started = self._told = time.monotonic()
        self.record("stage", {"stage": stage, "total": total})
        if stage.startswith("[") and not self._quiet and not self._err.is_terminal:
            self._err.print(stage)  # a long job in a pipeline shows that it is alive
        if not self._quiet and self._err.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                # Small totals are layers or windows, which people count; large ones are bytes.
                MofNCompleteColumn() if total < 100_000 else TaskProgressColumn(),
                TimeRemainingColumn(),
                console=self._err,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(stage, total=total)

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        if self._bar and self._task is not None:
            self._bar.advance(self._task, steps)
        elif not self._quiet and time.monotonic() - self._told > _PLAIN_INTERVAL_S:
            self._told = time.monotonic()
            left = (self._told - self._started) / self._done * (self._total - self._done)
            share = f"{self._done}/{self._total}" if self._total < 100_000 else ""
            share = share or f"{self._done / self._total:.0%}"
            self._err.print(f"{self._stage}: {share}, about {left:.0f} s left")

    def finish(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = self._task = None
        seconds = time.monotonic() - self._started
        self.record("stage done", {"stage": self._stage, "seconds": seconds})

    def close(self) -> None:
        """Closes the log file."""
        if self._log:
            with suppress(OSError):  # every line was flushed, or said to be lost
                self._log.close()
            self._log = None


def _width(rendered: RenderableType) -> int | None:
    """Of the terminal; a pipe has none, and no table may lose a number there."""
    if sys.stdout.isatty():
        return None
    wide = RichConsole(width=_WIDEST, **_PLAIN)
    parts = rendered.renderables if isinstance(rendered, Group) else [rendered]
    tables = [Measurement.get(wide, wide.options, x).maximum for x in parts if isinstance(x, Table)]
    return max([_PIPE, *tables])


def _open_log(path: Path | None) -> IO[str] | None:
    if path is None:
        return None
    try:
        return path.open("a", encoding="utf-8")
    except OSError as reason:
        raise UsageError(f"--log-file {path} can't be written: {reason.strerror}") from None


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--json``, ``--quiet`` and ``--log-file``; the command gets ``console``."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress and no messages.")
    @click.option(
        "--log-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Append JSON lines: stages, and one line a layer.",
    )
    @functools.wraps(command)
    def wrapped(
        as_json: bool,
        quiet: bool,
        log_file: Path | None,
        **options: Any,
    ) -> None:
        _silence_libraries(bars=not (as_json or quiet))
        console = Console(as_json=as_json, quiet=quiet, log_file=log_file)
        with closing(console):
            command(console=console, **options)

    return wrapped


def resume_option(command: Callable[..., None]) -> Callable[..., None]:
    """``--resume/--fresh`` of every verb that keeps its work where it was killed."""
    return click.option(
        "--resume/--fresh",
        default=True,
        help="Go on where a killed run stopped, or throw its work away.  [default: resume]",
    )(command)


def seed_option(command: Callable[..., None]) -> Callable[..., None]:
    """``--seed``, the same everywhere."""
    return click.option(
        "--seed",
        type=click.IntRange(0, LARGEST_SEED),
        default=0,
        show_default=True,
        help="Of every random choice; the same seed gives the same bytes.",
    )(command)


def device_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--device`` and ``--dtype``, the same everywhere."""
    command = click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
        default="auto",
        show_default=True,
        help="What to compute in; auto is float32 on a CPU and the stored type on a GPU.",
    )(command)
    return click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1."
    )(command)


def accepted_everywhere(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Takes options that mean nothing to a verb, so that one list of options fits all verbs."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def without(**options: Any) -> None:
            command(**{k: v for k, v in options.items() if k not in names})

        wrapped: Callable[..., None] = without
        for name in names:
            wrapped = click.option(f"--{name}", hidden=True, multiple=name == "calibration")(
                wrapped
            )
        return wrapped

    return decorate


def _silence_libraries(*, bars: bool) -> None:
    """Warnings of transformers stay out: what matters is said in our words."""
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not bars:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
