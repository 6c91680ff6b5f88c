"""A Python process of ours that is asked over pipes: one JSON object a line, each way."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from slimgpt.errors import SlimGPTError

_PATIENCE_S = 10.0
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Asks Linux to kill this process should its parent be killed, when that can end nothing.

    Else a measurement would go on, and slow down the next one. Called by the process itself, since
    what runs between fork and exec may meet the locks of the parent's other threads.

    Args:
        parent: process id of whoever started this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the kernel was asked
        sys.exit("the process that asked is gone")


class Child:
    """A process; starts at once, and ends with the ``with`` block.

    Subclasses say with :meth:`_death` what its end means.

    Attributes:
        name: for messages.
    """

    def __init__(
        self, name: str, module: str, first: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        """Starts ``python -m module PARENT`` and sends it its first line.

        The module calls :func:`end_with_parent`; start it in a thread that outlives it, since Linux
        takes the end of that thread for the parent's.

        Args:
            name: for messages.
            module: that answers.
            first: what it reads first.
            environment: of the process, whole.
        """
        self.name = name
        # A file, not a pipe: libraries write much, and nobody reads it unless the process dies.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # -P: a folder in the working directory that is named like a package is not what is meant.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        self._send(first)

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> list[str]:
        """What the process and its libraries wrote so far."""
        self._log.seek(0)
        return self._log.read().splitlines()

    def close(self) -> None:
        """Ends the process; kills it where it does not end by itself."""
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:  # whatever it is busy with, nobody waits for
            self._kill()
        self.close()

    def _kill(self) -> None:
        """Ends the process and those that it started: they share its session."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _death(self, code: int) -> SlimGPTError:
        """What to raise for a process that ended with ``code`` before it answered."""
        raise NotImplementedError

    def _send(self, value: Mapping[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death(self._process.wait()) from None

    def _receive(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._death(self._process.wait())
        return json.loads(line)
