"""A server's life, with real processes that behave as vLLM's do: its start, its end, what is left.

The stand-in answers /health after a while and starts a worker, as vLLM starts its engine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt_serve.launcher.address import Address, claim, held
from slimgpt_serve.launcher.server import ServerProcess, session_members
from slimgpt_serve.launcher.watch import answers, kv_tokens, watch

STAND_IN = """
import http.server, os, signal, subprocess, sys, time
port, how = int(sys.argv[1]), sys.argv[2]
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(f"worker {worker.pid}", flush=True)
if how == "dies":
    print("ValueError: No available memory for the cache blocks.", flush=True)
    print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
    raise SystemExit(1)
if how == "silent":
    raise SystemExit(3)
if how == "refuses":
    print("vllm serve: error: unrecognized arguments: --nonsense", flush=True)
    raise SystemExit(2)
def stop(*_):
    if how == "drains":
        time.sleep(0.5)
        worker.kill()
        try:
            print("drained", flush=True)
        finally:  # also where nobody reads what it prints
            os._exit(0)
signal.signal(signal.SIGTERM, stop)
if how == "loads":
    while True:
        time.sleep(1)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        if how == "crashes":
            print("torch.OutOfMemoryError: CUDA out of memory.", flush=True)
            os._exit(1)
    def log_request(self, *_): pass
time.sleep(0.3)
print("GPU KV cache size: 12,345 tokens, Maximum concurrency", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


class Life:
    """One stand-in under watch, and what happened."""

    def __init__(self, how: str, *, drain_s: float = 20) -> None:
        self.address = claim("127.0.0.1", 0)
        self.how, self.drain_s = how, drain_s
        self.ready: list[float] = []
        self.told: list[str] = []
        self.echoed: list[str] = []
        self.echo: Callable[[str], None] = self.echoed.append
        self.process: ServerProcess | None = None

    def start(self) -> ServerProcess:
        line = [sys.executable, "-P", "-c", STAND_IN, str(self.address.port), self.how]
        self.process = ServerProcess(line, os.environ, self.echo)
        return self.process

    def live(self, *signals: tuple[float, signal.Signals]) -> int:
        """Watches it; once it is ready, this process gets these signals after so many seconds."""

        def on_ready(process: ServerProcess, seconds: float) -> None:
            assert process is self.process
            self.ready.append(seconds)
            for after, number in signals:
                timer = threading.Timer(after, os.kill, (os.getpid(), number))
                timer.start()

        return watch(self.start, self.address, self.drain_s, on_ready, self.told.append)

    @property
    def left(self) -> list[int]:
        return session_members(self.process.pid) if self.process else []


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that outlive their server are not waited for as long as vLLM's."""
    monkeypatch.setattr("slimgpt_serve.launcher.server._REST_S", 0.5)


@pytest.fixture
def life() -> Iterator[Callable[..., Life]]:
    lives: list[Life] = []

    def begin(how: str, **options: float) -> Life:
        lives.append(Life(how, **options))
        return lives[-1]

    yield begin
    assert all(not x.left for x in lives), "a process outlived its server"


def test_a_server_is_ready_when_it_answers_and_not_before(life):
    server = life("drains")
    assert not answers(server.address)
    assert server.live((0, signal.SIGTERM)) == signal.SIGTERM
    assert len(server.ready) == 1
    assert server.ready[0] >= 0.3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_it_end_what_is_under_way(life, number):
    server = life("drains")
    assert server.live((0, number)) == number
    assert server.echoed[-1] == "drained\n"
    assert server.told == ["stopping: requests get 20 s; the same signal again kills", "stopped"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_still_loads_is_ended_soon(life, monkeypatch, number):
    # vLLM loads to the end before it heeds a signal, as this one does for ever.
    monkeypatch.setattr("slimgpt_serve.launcher.watch._LOADING_S", 0.5)
    server = life("loads")
    threading.Timer(1.5, os.kill, (os.getpid(), number)).start()
    assert server.live() == number
    assert server.ready == []
    assert server.told == ["stopped before it was ready"]


def test_the_second_signal_kills_it_with_its_workers(life):
    server = life("never")
    started = time.monotonic()
    assert server.live((0, signal.SIGINT), (0.5, signal.SIGINT)) == signal.SIGINT
    assert time.monotonic() - started < 15


def test_one_that_does_not_end_in_time_is_killed(life, monkeypatch):
    monkeypatch.setattr("slimgpt_serve.launcher.watch._TEARDOWN_S", 0.5)
    assert life("never", drain_s=0).live((0, signal.SIGTERM)) == signal.SIGTERM


def test_what_it_wrote_can_be_read_while_it_writes(life):
    server = life("drains")
    server.live((0, signal.SIGTERM))
    assert server.process
    lines = server.process.lines
    server.process._lines.append("more")
    assert lines == server.process.lines[:-1]


def test_a_terminal_that_is_gone_does_not_stop_it(life):
    server = life("drains")

    def gone(_: str) -> None:
        server.echoed.append("asked once")
        raise BrokenPipeError

    server.echo = gone
    assert server.live((0, signal.SIGTERM)) == signal.SIGTERM
    assert server.echoed == ["asked once"]
    assert server.process
    assert server.process.lines[-1] == "drained\n"


def test_another_that_loads_at_the_same_address_is_refused_and_not_started(life):
    server = life("drains")
    with held(server.address), pytest.raises(EnvironmentProblem, match="is in use"):
        server.live()
    assert server.process is None


def test_one_that_dies_before_it_is_ready_says_why_and_leaves_no_worker(life):
    with pytest.raises(EnvironmentProblem) as died:
        life("dies").live()
    assert str(died.value) == (
        "vLLM died before it was ready: ValueError: No available memory for the cache blocks."
    )


def test_one_that_dies_later_says_so(life):
    server = life("crashes")
    with pytest.raises(EnvironmentProblem, match="while it was serving: OutOfMemoryError: CUDA"):
        server.live()


def test_one_that_says_nothing_is_quoted(life):
    with pytest.raises(EnvironmentProblem, match=r"ended with code 3, and its last line .* worker"):
        life("silent").live()


def test_a_flag_that_vllm_does_not_know_is_the_users_mistake(life):
    with pytest.raises(UsageError, match="after --: unrecognized arguments: --nonsense"):
        life("refuses").live()


def test_signals_are_the_callers_again_afterwards(life):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    life("drains").live((0, signal.SIGTERM))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells children of a death")
def test_a_server_ends_when_its_launcher_is_killed(tmp_path: Path) -> None:
    address: Address = claim("127.0.0.1", 0)
    launcher = f"""
import os, sys, time
from slimgpt_serve.launcher.server import ServerProcess
line = [sys.executable, "-c", {STAND_IN!r}, "{address.port}", "drains"]
print(ServerProcess(line, os.environ, None).pid, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        session = int(process.stdout.readline())
        deadline = time.monotonic() + 20
        while not answers(address):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()
    while session_members(session):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_cache_is_what_vllm_says_it_is():
    lines = ["a", "GPU KV cache size: 1,024 tokens", "CPU KV cache size: 9 tokens, more"]
    assert kv_tokens(lines) == 9
    assert kv_tokens(lines[:2]) == 1024
    assert kv_tokens(["a"]) is None
