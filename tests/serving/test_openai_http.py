"""``slimgpt serve`` of an ONNX export over HTTP: mistakes, clients that leave, metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving.openai_client import PROMPT, Client, serving_chat

MANY: dict[str, Any] = {"prompt": ["Once", "It was", "The"], "n": 20, "max_tokens": 240}
"""A request that takes seconds: this many answers of this many tokens."""
EVERY_TOKEN = len(MANY["prompt"]) * MANY["n"] * MANY["max_tokens"]
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving_chat(tmp_path_factory.mktemp("server")) as found:
        yield found


# -- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "says"),
    [
        ("POST", "/v1/completions", '{"prompt": "x", "model": "gpt-4"}', 404, "gpt-4 does not"),
        ("POST", "/v1/completions", '{"prompt": ', 400, "the body is no JSON"),
        ("POST", "/v1/completions", "[]", 400, "the body is no JSON object"),
        ("POST", "/v1/completions", '{"prompt": "x", "best_of": 2}', 400, "best_of is not"),
        ("POST", "/v1/completions", f'{{"prompt": "{"x" * 2**20}"}}', 413, "larger than 1048576"),
        ("GET", "/v1/completions", "", 405, "Method Not Allowed"),
        ("GET", "/v1/nothing", "", 404, "Not Found"),
    ],
    ids=["model", "json", "list", "field", "large", "method", "path"],
)
def test_a_mistake_is_answered_in_openais_form(client, method, path, content, status, says):
    headers = {"content-type": "application/json"}
    found = client.http.request(method, path, content=content, headers=headers)
    assert found.status_code == status
    error = found.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]


def test_a_web_page_elsewhere_can_not_make_a_browser_ask(client):
    found = client.http.post("/v1/completions", content='{"prompt": "x"}')  # no type, like a form
    assert found.status_code == 400


# -- the server itself --------------------------------------------------------------------------


def test_what_is_served_is_told(client):
    [model] = client.http.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("chat", "model", 256)
    assert client.http.get("/version").json()["version"]
    assert "/v1/completions" in client.http.get("/openapi.json").json()["paths"]


def test_a_client_that_goes_away_frees_its_slots(client):
    before = client.metrics()
    for streams in (True, False):
        with httpx.Client(base_url=client.http.base_url, timeout=60) as leaving:
            body = {**MANY, "ignore_eos": True, "stream": streams}
            if streams:
                with leaving.stream("POST", "/v1/completions", json=body) as response:
                    lines = response.iter_lines()  # dropped, it would close the connection
                    next(lines)
                    assert client.metrics()["num_requests_running"] > 0
            else:
                with pytest.raises(httpx.ReadTimeout):
                    leaving.post("/v1/completions", json=body, timeout=0.3)
        deadline = time.monotonic() + 20
        while client.metrics()["num_requests_running"] + client.metrics()["num_requests_waiting"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    after = client.metrics()
    assert after["generation_tokens_total"] - before["generation_tokens_total"] < 2 * EVERY_TOKEN
    name = "requests_total{aborted}"
    assert after[name] - before[name] == 2
    assert client.texts(max_tokens=1)


def test_metrics_count_what_happened(client):
    before = client.metrics()
    client.complete(n=2, max_tokens=7)
    client.chunks("/v1/completions", prompt=PROMPT, max_tokens=5)
    client.post("/v1/completions", prompt="x", best_of=2)
    after = client.metrics()
    grown = {name: after[name] - before[name] for name in after if name in before}
    assert grown["requests_total{ok}"] == 2
    assert grown["requests_total{refused}"] == 1
    assert grown["request_success_total{length}"] == 3
    assert grown["prompt_tokens_total"] == 3 * 6
    assert grown["generation_tokens_total"] == 2 * 7 + 5
    assert grown["time_to_first_token_seconds_count"] == 3
    assert grown["e2e_request_latency_seconds_count"] == 3
    assert after["kv_cache_capacity_tokens"] == 4 * 256
    assert after["num_requests_running"] == after["kv_cache_usage_perc"] == 0
    [build] = [name for name in after if name.startswith("build_info")]
    assert "chat" in build
