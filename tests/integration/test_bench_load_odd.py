"""``slimgpt bench load`` on servers whose bytes are odd: a class of failure each, and no crash."""

from __future__ import annotations

import gzip
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from slimgpt_bench.load.key import KEY_VARIABLE
from tests.load_command import CLOSED, Load

MODELS = json.dumps({"data": [{"id": "odd", "note": "x" * 100_000}]}).encode()
STREAM = "Content-Type: text/event-stream"
DONE = b"data: [DONE]\n\n"
KEY = "sesame-of-many-letters"


@pytest.fixture
def load(capsys: pytest.CaptureFixture[str]) -> Load:
    return Load(capsys)


def _event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _token(text: str, reason: str | None = None) -> bytes:
    return _event({"choices": [{"index": 0, "text": text, "finish_reason": reason}]})


def _usage(output: int) -> bytes:
    return _event({"choices": [], "usage": {"prompt_tokens": 6, "completion_tokens": output}})


def _answer(body: bytes, *headers: str, status: int = 200) -> bytes:
    head = [f"HTTP/1.1 {status} Odd", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


ANSWER = _token("a") + _token("b") + _token("c") + _token("d", "length") + _usage(4)
SILENT = 3 * _token("") + _token("", "length") + _usage(4) + DONE


@contextmanager
def _serving(answer: bytes) -> Iterator[str]:
    """A server that answers every request with these bytes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line, length = self.rfile.readline(), 0
            while (header := self.rfile.readline().strip()) != b"":
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.rfile.read(length)
            if line.startswith(b"POST"):
                self.wfile.write(answer)
            elif b"/v1/models" in line:  # in two parts, as the network may cut it
                self.wfile.write(_answer(MODELS[:70_000]))
                time.sleep(0.02)
                self.wfile.write(MODELS[70_000:])
            else:
                self.wfile.write(_answer(b"", status=404))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


FINE = {
    "no [DONE], but its reason to end": ANSWER,
    "compressed though nobody asked": gzip.compress(ANSWER + DONE),
    "tokens without text": SILENT,
}


@pytest.mark.parametrize("name", FINE)
def test_what_is_unusual_but_whole_is_an_answer(name, load):
    body = FINE[name]
    packed = ["Content-Encoding: gzip"] if body.startswith(b"\x1f\x8b") else []
    with _serving(_answer(body, STREAM, *packed)) as url:
        told = load.calm(url, *CLOSED)
    assert (told.code, told.lines) == (0, [])
    assert told.document["levels"][0]["tokens"]["output"] == 48


NESTED = b'data: {"error": ' + b"[" * 900 + b"]" * 900 + b"}\n\n"
ODD = {
    "a stream of nothing": (_answer(DONE, STREAM), "no_tokens"),
    "no end at all": (_answer(_token("a") + _token("b"), STREAM), "truncated"),
    "an error as vLLM spelt it": (
        _answer(_event({"object": "error", "message": "boom"}) + DONE, STREAM),
        "error_in_stream",
    ),
    "a nested error": (_answer(NESTED, STREAM), "error_in_stream"),
    "a redirection": (_answer(b"", "Location: http://127.0.0.1:1/", status=307), "bad_response"),
    "an endless line": (_answer(b"data: " + b"x" * (9 * 2**20), STREAM), "bad_response"),
    "bad compression": (_answer(b"none" * 9, STREAM, "Content-Encoding: gzip"), "no_tokens"),
    "no HTTP": (b"hello\r\n\r\n", "bad_response"),
    "a closed connection": (b"", "connect"),
    "less than it said": (_answer(ANSWER, STREAM, "Content-Length: 9999"), "truncated"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_answer_has_its_class(name, load):
    answer, kind = ODD[name]
    with _serving(answer) as url:
        told = load(url, *CLOSED)
    if kind == "connect":  # every time, so that nothing needs to be measured
        assert told.code == 4
        assert "does not answer" in told.lines[0]
        return
    assert told.code == 3
    assert told.document["requests"] == {"sent": 12, "ok": 0, "failed": {kind: 12}}


def test_a_usage_beyond_all_bounds_is_none(load):
    with _serving(_answer(_token("a") + _token("b", "stop") + _usage(10**400), STREAM)) as url:
        told = load(url, *CLOSED, "--respect-eos")
    assert told.code == 3
    assert "came without a usage" in told.lines[0]


@pytest.mark.parametrize("status", [400, 500])
def test_a_key_that_the_server_repeats_is_not_shown(status, load, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    said = json.dumps({"error": {"message": f"{'x' * 185} {KEY} is wrong \ud800\u001b[31m"}})
    with _serving(_answer(said.encode(), "Content-Type: application/json", status=status)) as url:
        told = load(url, *CLOSED)
    shown = json.dumps(told.document) + "\n".join(told.lines)
    assert "xxx ***" in shown
    assert KEY[:6] not in shown
    assert "\x1b" not in shown.replace("\\u001b", "\x1b")
