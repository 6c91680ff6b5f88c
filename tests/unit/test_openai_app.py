"""What the application says when the model can't answer, and when a body has no end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from slimgpt_serve.onnx_runtime.runner import Runner
from slimgpt_serve.openai_api.app import make_app
from slimgpt_serve.openai_api.asks import Asks
from slimgpt_serve.openai_api.engine import Engine
from slimgpt_serve.openai_api.metrics import Metrics
from slimgpt_serve.openai_api.service import Service
from tests.onnx_serving import export_small, make_runner, tokenizer_of

JSON = {"content-type": "application/json"}
ASK = {"prompt": "Once", "max_tokens": 8, "ignore_eos": True}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small(tmp_path_factory.mktemp("export"))


class Breaking:
    """A runner that breaks after some steps."""

    def __init__(self, runner: Runner, steps: int) -> None:
        self._runner, self._left = runner, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("the device is gone")
        return self._runner.decode(tokens, lengths)


class Stoppable(Engine):
    """An engine that ``closing`` stops."""

    close = Engine.stop


def _asked(export: Path, *requests: dict[str, Any], steps: int = 99) -> list[httpx.Response]:
    """Answers to these requests, one after the other."""
    runner: Any = Breaking(make_runner(export, slots=1), steps)
    tokenizer, metrics = tokenizer_of(export), Metrics()
    engine = Stoppable(runner, tokenizer, metrics, max_waiting=1)
    metrics.watch(engine)
    asks = Asks(tokenizer, vocabulary=4096, capacity=256, eos=frozenset(), seed=0)

    async def ask() -> list[httpx.Response]:
        app = make_app(Service(engine, asks, metrics, "small"))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://small") as client:
            return [await client.request(**request) for request in requests]

    with closing(engine):
        engine.start()
        return asyncio.run(ask())


def _post(**body: Any) -> dict[str, Any]:
    return {"method": "POST", "url": "/v1/completions", "json": ASK | body}


def _get(path: str) -> dict[str, Any]:
    return {"method": "GET", "url": path}


def test_health_is_good_while_the_model_answers(export):
    health, answer, again = _asked(export, _get("/health"), _post(), _get("/health"))
    assert [health.status_code, answer.status_code, again.status_code] == [200, 200, 200]


def test_health_fails_with_the_engine(export):
    broken, health, later, metrics = _asked(
        export, _post(), _get("/health"), _post(), _get("/metrics"), steps=0
    )
    assert [broken.status_code, health.status_code, later.status_code] == [503, 503, 503]
    assert broken.json()["error"]["type"] == "server_error"
    assert "the engine stopped after an error" in later.json()["error"]["message"]
    assert health.json()["error"]["message"] == "the model can't answer"
    assert 'slimgpt_requests_total{outcome="failed"} 2.0' in metrics.text


def test_an_engine_that_breaks_in_a_stream_ends_the_stream_with_the_error(export):
    [broken] = _asked(export, _post(stream=True), steps=0)  # the first token came with the prompt
    lines = [line for line in broken.text.splitlines() if line]
    assert broken.status_code == 200
    assert "the engine stopped after an error" in lines[-2]
    assert lines[-1] == "data: [DONE]"


def test_the_answers_of_a_request_are_counted_before_they_are_made(export, monkeypatch):
    monkeypatch.setattr(Asks, "completions", None)
    [answer] = _asked(export, _post(prompt=["x"] * 1000, n=128))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("the request asks for 128000 answers")


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": 1e308, "top_p": 1e-320},
        {"temperature": 1, "top_k": 5, "repetition_penalty": 1e-300},
        {"temperature": 1, "top_p": 0.5, "repetition_penalty": 1e300},
        {"temperature": 5e-324},
    ],
    ids=str,
)
def test_no_settings_of_one_request_stop_the_server(export, body):
    answer, health = _asked(export, _post(**body), _get("/health"))
    assert (answer.status_code, health.status_code) == (200, 200)


def test_a_name_that_is_no_text_is_quoted_as_far_as_it_is(export):
    content = b'{"prompt": "x", "model": "a\\ud800b"}'
    request = {"method": "POST", "url": "/v1/completions", "headers": JSON, "content": content}
    [answer] = _asked(export, request)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("the model a?b does not exist")


@pytest.mark.parametrize(
    ("content", "headers", "says"),
    [
        (b'{"prompt": "\xff"}', JSON, "send JSON in UTF-8"),
        (b"[" * 100_000, JSON, "nesting of great length"),
        (b'{"max_tokens": 1' + b"0" * 5000 + b"}", JSON, "numbers"),
        (b'{"prompt": "x"}', {"content-type": "text/plain"}, "Content-Type: application/json"),
        (b'{"prompt": "x"}', {}, "Content-Type: application/json"),
        (b"[]", JSON, "the body is no JSON object"),
        (b"", JSON, "the body is no JSON object"),
    ],
    ids=["bytes", "nested", "number", "type", "no type", "list", "nothing"],
)
def test_a_body_that_is_no_request_is_told_what_one_is(export, content, headers, says):
    request = {"method": "POST", "url": "/v1/completions", "headers": headers, "content": content}
    [answer] = _asked(export, request)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_a_model_can_be_asked_for_by_its_name(export):
    every, found, other = _asked(
        export, _get("/v1/models"), _get("/v1/models/small"), _get("/v1/models/an/other")
    )
    assert [found.json()] == every.json()["data"]
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


def test_a_body_of_no_known_length_is_cut_off(export):
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65536

    request = {"method": "POST", "url": "/v1/completions", "headers": JSON}
    [answer] = _asked(export, {**request, "content": endless()})
    assert answer.status_code == 413
    assert answer.json()["error"]["message"].endswith("the body is larger than 1048576 bytes")
