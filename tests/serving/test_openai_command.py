"""The life of ``slimgpt serve`` of an ONNX export: who may ask, how much, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from slimgpt.demo import MODEL
from slimgpt.errors import EnvironmentProblem, IntegrityError
from slimgpt_serve.guard import VARIABLE
from slimgpt_serve.openai_api import serving
from slimgpt_serve.openai_api.loading import Loaded, load
from slimgpt_serve.openai_api.session import Asked, Session, prepare
from tests.onnx_exports import Exports
from tests.onnx_serving import spoil_position
from tests.serving.serving import Served

KEY = "sesame-0123"
SLOW: dict[str, Any] = {"prompt": ["x"] * 8, "max_tokens": 200, "ignore_eos": True}
"""Takes about a second with one slot."""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Exports(tmp_path_factory.mktemp("export")).make(MODEL).out


@contextmanager
def _served(folder: Path, *options: object, key: str | None = None) -> Iterator[Served]:
    folder.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    environment |= {"OMP_NUM_THREADS": "1"}
    server = Served(Path(sys.executable), folder, *options, environment=environment, key=key)
    with closing(server):
        yield server


# -- a server that others reach -----------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One slot, 40 places to wait, 64 tokens, and a key."""
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "key"
    file.write_text(KEY)
    file.chmod(0o600)
    options = (export, "--host", "0.0.0.0", "--api-key-file", file, "--max-concurrency", 1)
    limits = ("--max-waiting", 40, "--max-model-len", 64, "--json")
    with _served(folder, *options, *limits, key=KEY) as server:
        server.wait_ready()
        yield server


def test_the_document_says_what_is_served_where(guarded):
    ready = json.loads(guarded.out)
    assert re.fullmatch(r"http://127.0.0.1:\d+/v1", ready["url"])
    assert (ready["engine"], ready["provider"]) == ("onnx", "CPUExecutionProvider")
    assert ready["pid"] == guarded.process.pid
    assert ready["kv_tokens"] == ready["preflight"]["kv_tokens"] == 64
    assert (ready["threads"], ready["preflight"]["max_waiting"]) == (1, 40)
    assert ready["seconds"] > 0
    assert f"serving {ready['model']} as" in guarded.err.replace("\n", " ")


def test_the_key_guards_all_but_what_probes_ask(guarded):
    asked = {"prompt": "x", "max_tokens": 1}
    for path in ("/v1/completions", "/v1/chat/completions"):
        assert [guarded.ask(path, asked, key)[0] for key in (None, "wrong")] == [401, 401]
    for path in ("/v1/models", "/openapi.json"):
        assert [guarded.ask(path, key=key)[0] for key in (None, "own")] == [401, 200]
    for path in ("/health", "/metrics", "/version"):
        assert guarded.ask(path, key=None)[0] == 200
    assert guarded.ask("/v1/completions", asked)[0] == 200


def test_the_key_is_printed_nowhere(guarded):
    assert KEY not in guarded.out + guarded.err
    assert "GET /health" in guarded.err  # the log of requests is there


def test_a_prompt_beyond_the_capacity_is_the_clients_mistake(guarded):
    status, answer = guarded.complete(
        json.loads(guarded.out)["served_model_name"], prompt="word " * 100
    )
    assert status == 400
    message = answer["error"]["message"]
    assert re.match(r"the prompt has \d+ tokens, and this server takes 64 of prompt", message)
    assert answer["error"]["code"] == "context_length_exceeded"


def test_chat_needs_a_template_and_says_so(guarded):
    status, body = guarded.ask(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}
    )
    assert status == 400
    assert "the model has no chat template" in json.loads(body)["error"]["message"]


def test_more_than_can_wait_is_refused_and_what_waits_is_answered(guarded):
    asked = {**SLOW, "prompt": ["x"] * 41, "max_tokens": 60}
    found: list[int] = []
    first = threading.Thread(target=lambda: found.append(guarded.ask("/v1/completions", asked)[0]))
    first.start()
    deadline = time.monotonic() + 20
    while not guarded.metric("slimgpt_num_requests_waiting"):
        assert time.monotonic() < deadline
    with closing(http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=60)) as connection:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        connection.request("POST", "/v1/completions", json.dumps(asked), headers)
        response = connection.getresponse()
        error = json.loads(response.read())["error"]
    first.join()
    assert response.status == 429
    assert int(response.headers["Retry-After"]) >= 1
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert found == [200]
    assert guarded.metric('slimgpt_requests_total{outcome="busy"}') == 1


# -- numbers ------------------------------------------------------------------------------------


def test_a_request_without_numbers_fails_alone(export, tmp_path):
    with _served(
        tmp_path / "run", spoil_position(export, tmp_path / "bad", 30), "--json"
    ) as server:
        name = server.wait_ready()["served_model_name"]
        status, answer = server.complete(name, prompt=[5] * 20, max_tokens=60)
        assert status == 500
        assert answer["error"]["message"].startswith("the model's logits are no numbers")
        assert answer["error"]["type"] == "server_error"
        long = {"prompt": [5] * 40, "max_tokens": 5, "stream": True}
        assert server.ask("/v1/completions", long)[0] == 500  # before the first token
        parts = list(server.stream(name, {"prompt": [5] * 20, "max_tokens": 60, "stream": True}))
        assert parts[-1] == "[DONE]"
        assert "no numbers" in parts[-2]["error"]["message"]  # type: ignore[index]
        assert server.health() == 200
        assert server.complete(name, prompt=[5] * 20, max_tokens=5)[0] == 200


# -- ends ---------------------------------------------------------------------------------------


def _under_way(server: Served, name: str) -> Iterator[dict[str, Any] | str]:
    """A stream that has begun."""
    stream = server.stream(name, {**SLOW, "stream": True})
    next(stream)
    return stream


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["sigterm", "ctrl-c"]
)
def test_a_request_under_way_ends_before_the_server_does(export, tmp_path, number, code):
    options = (export, "--json", "--quiet", "--max-concurrency", 1)
    with _served(tmp_path / "run", *options) as server:
        stream = _under_way(server, server.wait_ready()["served_model_name"])
        server.process.send_signal(number)
        parts = list(stream)
        assert server.process.wait(20) == code
    assert parts[-1] == "[DONE]"
    reasons = [c["finish_reason"] for p in parts if isinstance(p, dict) for c in p["choices"]]
    assert reasons.count("length") == len(SLOW["prompt"])
    assert server.err == ""  # --quiet


def test_a_client_that_does_not_read_is_not_waited_for(export, tmp_path):
    with _served(tmp_path / "run", export, "--json", "--max-concurrency", 8) as server:
        server.wait_ready()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            body = json.dumps({**SLOW, "prompt": ["x"] * 60, "stream": True, "logprobs": 20})
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            time.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
    assert "Traceback" not in server.err


def test_the_second_signal_does_not_wait(export, tmp_path):
    with _served(tmp_path / "run", export, "--json", "--max-concurrency", 1) as server:
        name = server.wait_ready()["served_model_name"]
        stream = server.stream(name, {**SLOW, "prompt": ["x"] * 60, "stream": True})
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        parts = list(stream)
        assert server.process.wait(20) == 0
    assert parts[-1] == "[DONE]"
    assert parts[-2]["error"]["message"] == "the server is stopping"  # type: ignore[index]
    assert "Traceback" not in server.err
    assert server.err.rstrip().endswith("stopped")


def _session(export: Path, port: int = 0) -> Session:
    return prepare(
        Asked(
            model=(str(export), export),
            host="127.0.0.1",
            port=port,
            api_key_file=None,
            max_model_len=None,
            max_concurrency=2,
            max_waiting=2,
            threads=1,
            dtype="auto",
            device="cpu",
            seed=0,
            environ={},
            quiet=True,
            dry_run=False,
        )
    )


def _ignored(*_: object) -> None:
    """For callers that are told more than a test looks at."""


def test_a_signal_while_it_loads_is_not_kept_waiting(export, monkeypatch):
    loading = threading.Event()

    def forever(_: Session) -> Any:
        loading.set()
        threading.Event().wait()

    def interrupt() -> None:
        loading.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(serving, "load", forever)
    threading.Thread(target=interrupt).start()
    told: list[str] = []
    found = serving.serve(_session(export), _ignored, told.append, access_log=False)
    assert found == (signal.SIGTERM, False)
    assert told == ["stopped before it was ready"]


def test_a_port_that_is_taken_while_it_loads_is_told(export, monkeypatch):
    session = _session(export)
    taken: list[Any] = []

    def slow(given: Session) -> Loaded:
        taken.append(serving._listening(given.address))
        taken[0].__enter__()
        return load(given)

    monkeypatch.setattr(serving, "load", slow)
    with pytest.raises(EnvironmentProblem) as refused:
        serving.serve(session, _ignored, _ignored, access_log=False)
    taken[0].__exit__(None, None, None)
    assert str(refused.value) == (
        f"port {session.address.port} of 127.0.0.1 was taken while the model was loaded (Address "
        "already in use): give another --port, or 0 for any that is free"
    )


def test_a_model_that_never_gives_numbers_is_not_served(export, tmp_path):
    session = _session(spoil_position(export, tmp_path / "bad", 0))
    with pytest.raises(IntegrityError) as refused:
        serving.serve(session, _ignored, _ignored, access_log=False)
    assert str(refused.value).startswith("the model's logits are no numbers")
