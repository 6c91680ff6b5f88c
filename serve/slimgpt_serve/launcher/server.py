"""The vLLM process: started in a session of its own, watched, and ended with all that it started.

The caller's terminal, its signals and its standard error stay the caller's: a Ctrl-C goes to this
process alone, which then lets vLLM answer what is under way.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

_KEPT_LINES = 2000
_POLL_S = 0.2
_REST_S = 5.0
_PR_SET_PDEATHSIG = 1


class ServerProcess:
    """A running ``vllm serve``.

    Attributes:
        pid: of the API server, and the id of its session.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        echo: Callable[[str], None] | None,
    ) -> None:
        """Starts it.

        Args:
            command: the command line.
            environment: all of it.
            echo: is given each line of its output.
        """
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._echo = echo
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509, RUF100
        )
        self.pid = self._process.pid
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.append(line)
            try:
                if self._echo:
                    self._echo(line)
            except OSError:  # nobody reads it any more; vLLM would wait for one who reads its pipe
                self._echo = None

    @property
    def lines(self) -> list[str]:
        """The last that its processes wrote: a copy, since more may come at any time."""
        return list(self._lines)

    def ended(self) -> bool:
        """Whether it has ended. It is not waited for: its session's id must stay taken."""
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self.pid, options) is not None

    def signal(self, number: int) -> None:
        """Sends the API server a signal, which tells its own processes."""
        if not self.ended():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends every process of the session at once."""
        for pid in session_members(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> int:
        """Waits for the ended server, ends what it left behind, and returns its exit code.

        Engine and workers outlive an API server that was killed, and keep the GPU's memory.
        """
        self._wait_for_rest()
        self.kill()
        self._wait_for_rest()  # a killed process takes a moment to give up its memory
        code = self._process.wait()
        self._reader.join(_REST_S)
        if self._process.stdout and not self._reader.is_alive():
            self._process.stdout.close()
        return code

    def _wait_for_rest(self) -> None:
        deadline = time.monotonic() + _REST_S
        while session_members(self.pid) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def end(self) -> None:
        """Makes sure that nothing of it is left, however it came to this."""
        if self._process.returncode is None:
            if not self.ended():
                self.kill()
            self.close()


def _end_with_parent() -> None:
    """Asks Linux to end the server should this process be killed, when it can end nothing itself.

    Runs in the child before vLLM, while this process has no thread that could hold a lock.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def session_members(session: int) -> list[int]:
    """Processes of a session that are alive, on a system with /proc; elsewhere none are seen."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            # The name stands in brackets and may hold anything.
            fields = status.read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(status.parent.name))
    return found


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT as a list that grows, in the order in which they came."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
