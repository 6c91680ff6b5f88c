"""Starts ``slimgpt serve`` with a real vLLM and asks it over HTTP, as a client would."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from slimgpt_serve.launcher.server import session_members
from tests.serving.engines import Engines

READY_S = 400.0
"""An engine compiles for a minute, for several on a busy machine."""
END_S = 120.0
LONG: dict[str, Any] = {
    "prompt": ["Once", "It was", "The"],
    "n": 8,
    "max_tokens": 240,
    "ignore_eos": True,
    "stream": True,
    "temperature": 1,
}
"""A request that takes seconds: this many answers of this many tokens."""


def environment(engines: Engines) -> dict[str, str]:
    """That of the tests' engines, without what would change how a server behaves."""
    found = engines.environment()
    return {k: v for k, v in found.items() if k not in ("VLLM_API_KEY", "VLLM_PLUGINS")}


class Served:
    """One ``slimgpt serve``, from its start to its end.

    Attributes:
        port: where it listens.
        before: what /health said until it was ready: ``refused`` or a status.
    """

    def __init__(
        self,
        python: Path,
        folder: Path,
        *options: object,
        environment: Mapping[str, str],
        key: str | None = None,
    ) -> None:
        """Starts it on a port of its own; what it prints goes into files of the folder."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.before: set[str | int] = set()
        self._key = key
        self._out, self._err = folder / "stdout", folder / "stderr"
        line = [str(python), "-m", "slimgpt", "serve", "--port", str(self.port), *map(str, options)]
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(line, env=dict(environment), stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_ready(self) -> dict[str, Any]:
        """The document of ``--json``, once the server answers."""
        deadline = time.monotonic() + READY_S
        while True:
            said = self.health()
            if said == http.client.OK:
                break
            self.before.add(said)
            assert self.process.poll() is None, self.err[-5000:]
            assert time.monotonic() < deadline, self.err[-5000:]
            time.sleep(0.2)
        while not self.out.endswith("}\n"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        found: dict[str, Any] = json.loads(self.out)
        return found

    def health(self) -> str | int:
        try:
            return self.ask("/health", key=None)[0]
        except OSError:
            return "refused"

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, key: str | None = "own"
    ) -> tuple[int, str]:
        """Status and body of an answer; with the server's own key unless told otherwise."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(
                "POST" if body else "GET",
                path,
                json.dumps(body) if body else None,
                self._headers(key),
            )
            response = connection.getresponse()
            return response.status, response.read().decode()

    def complete(self, model: str, **settings: Any) -> tuple[int, Any]:
        """A completion, greedy."""
        status, body = self.ask("/v1/completions", {"model": model, "temperature": 0, **settings})
        return status, json.loads(body)

    def stream(self, model: str, settings: Mapping[str, Any]) -> Iterator[dict[str, Any] | str]:
        """What a streamed completion sends, until the caller stops listening."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            body = json.dumps({"model": model, **settings})
            connection.request("POST", "/v1/completions", body, self._headers("own"))
            response = connection.getresponse()
            assert response.status == http.client.OK, response.read()
            for line in _lines(response):
                yield line if line == "[DONE]" else json.loads(line)

    def metric(self, name: str) -> float:
        """A number of /metrics, its samples added up."""
        text = self.ask("/metrics", key=None)[1]
        return sum(map(float, re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.M)))

    def sessions(self) -> list[int]:
        """Ids of the sessions that it started: vLLM's."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(x) for x in task.read_text().split()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, list[int]]:
        """Exit code after a signal, and the processes that are left of its sessions."""
        sessions = self.sessions()
        assert sessions
        self.process.send_signal(number)
        return self.ended(sessions)

    def ended(self, sessions: list[int]) -> tuple[int, list[int]]:
        code = self.process.wait(END_S)
        return code, [pid for session in sessions for pid in session_members(session)]

    def close(self) -> None:
        """Leaves nothing running, whatever a test ended with."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _headers(self, key: str | None) -> dict[str, str]:
        key = self._key if key == "own" else key
        headers = {"Content-Type": "application/json"}
        return headers | ({"Authorization": f"Bearer {key}"} if key else {})


def _lines(response: IO[bytes]) -> Iterator[str]:
    for line in response:
        if line.startswith(b"data: "):
            yield line.decode().removeprefix("data: ").strip()
