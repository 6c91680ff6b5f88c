"""``slimgpt serve`` with a real vLLM behind it, over HTTP.

Servers take most of a minute to start: there are two, each asked everything in one go, and the
tests look at what was seen.
"""

from __future__ import annotations

import json
import re
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt.demo import MODEL
from slimgpt_serve.preflight.artefact import artefact_digest
from tests.serving.engines import Engines, prune_embedded
from tests.serving.serving import LONG, Served, environment

pytestmark = [pytest.mark.serving, pytest.mark.slow]

PROMPT, TOKENS, KEY = "Once upon a time", 32, "sesame-0123"
BEYOND = {"prompt": "word " * 400, "max_tokens": 8}
ANSWERS = len(LONG["prompt"]) * LONG["n"]
EVERY_TOKEN = ANSWERS * LONG["max_tokens"]


# -- a server that others reach -----------------------------------------------------------------


def _guarded(engines: Engines, folder: Path) -> dict[str, Any]:
    """The embedded model, stock, on every address with a key: everything that a client meets."""
    file = folder / "key"
    file.write_text(KEY)
    file.chmod(0o600)
    options = (MODEL, "--host", "0.0.0.0", "--api-key-file", file, "--dtype", "float32", "--json")
    server = Served(engines.python, folder, *options, environment=environment(engines), key=KEY)
    with closing(server):
        seen: dict[str, Any] = {
            "ready": server.wait_ready(),
            "before": sorted(server.before, key=str),
        }
        seen["text"] = server.complete("model", prompt=PROMPT, max_tokens=TOKENS)
        seen["beyond"] = server.complete("model", **BEYOND)
        messages = [{"role": "user", "content": "hello"}]
        seen["chat"] = server.ask("/v1/chat/completions", {"model": "model", "messages": messages})
        seen["metrics"] = server.ask("/metrics", key=None)[1]
        ask = {"model": "model", "prompt": "x", "max_tokens": 1}
        for key in ("wrong", None):
            seen[f"key {key}"] = [
                server.ask(path, ask, key)[0] for path in ("/v1/completions", "/invocations")
            ]
        seen["key right"] = [
            server.ask(path, ask)[0] for path in ("/v1/completions", "/invocations")
        ]
        seen |= _left_alone(server)
        seen |= _stopped(server)
        seen["printed"] = server.out + server.err
    return seen


def _left_alone(server: Served) -> dict[str, Any]:
    """A client goes away in the middle of a long answer."""
    before = server.metric("vllm:generation_tokens_total")
    stream = server.stream("model", LONG)
    next(stream)
    running = server.metric("vllm:num_requests_running")
    stream.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 30
    while server.metric("vllm:num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.1)
    return {
        "running": running,
        "running after": server.metric("vllm:num_requests_running"),
        "tokens": server.metric("vllm:generation_tokens_total") - before,
        "alive": server.complete("model", prompt=PROMPT, max_tokens=1)[0],
    }


def _stopped(server: Served) -> dict[str, Any]:
    """SIGTERM in the middle of a long answer."""
    sessions = server.sessions()
    stream = server.stream("model", LONG)
    sent = [next(stream)]
    server.process.send_signal(signal.SIGTERM)
    sent += list(stream)
    code, left = server.ended(sessions)
    reasons = [
        choice["finish_reason"]
        for part in sent
        if isinstance(part, dict)
        for choice in part["choices"]
        if choice["finish_reason"]
    ]
    return {"last": sent[-1], "reasons": reasons, "code": code, "left": left}


@pytest.fixture(scope="module")
def guarded(engines: Engines) -> Any:
    return engines.once("serve-guarded", lambda folder: _guarded(engines, folder))


def test_health_answers_when_the_model_is_loaded_and_not_before(guarded):
    assert guarded["before"]
    assert set(guarded["before"]) <= {"refused", 503}


def test_the_document_says_what_is_served_where(guarded):
    ready = guarded["ready"]
    assert ready["served_model_name"] == "model"
    assert re.fullmatch(r"http://127.0.0.1:\d+/v1", ready["url"])
    assert ready["seconds"] > 0


def test_the_cache_holds_what_the_preflight_counted(guarded):
    ready = guarded["ready"]
    assert ready["kv_tokens"] == ready["preflight"]["kv_tokens"]


def test_a_stock_model_with_narrow_heads_says_what_transformers_says(guarded, capsys):
    status, answer = guarded["text"]
    assert status == 200
    assert answer["choices"][0]["text"] == _generated(MODEL, capsys)


def test_chat_needs_a_template_and_says_so(guarded):
    status, body = guarded["chat"]
    assert status == 400
    assert "chat template" in body


def test_a_prompt_beyond_the_context_is_the_clients_mistake(guarded):
    status, answer = guarded["beyond"]
    assert status == 400
    assert "maximum context length is 256 tokens" in answer["error"]["message"]


def test_metrics_tell_which_artefact_is_served(guarded):
    metrics = guarded["metrics"]
    digest = artefact_digest(MODEL)
    assert re.search(rf'^slimgpt_build_info{{digest="{digest}",model="model",', metrics, re.M)
    assert "vllm:num_requests_running" in metrics


def test_the_key_guards_every_way_to_the_model(guarded):
    assert guarded["key wrong"] == guarded["key None"] == [401, 401]
    assert guarded["key right"] == [200, 200]


def test_the_key_is_printed_nowhere(guarded):
    assert KEY not in guarded["printed"]


def test_a_client_that_goes_away_frees_the_engine(guarded):
    assert guarded["running"] > 0
    assert guarded["running after"] == 0
    assert guarded["tokens"] < EVERY_TOKEN
    assert guarded["alive"] == 200


def test_a_request_under_way_ends_before_the_server_does(guarded):
    assert guarded["last"] == "[DONE]"
    assert guarded["reasons"] == ["length"] * ANSWERS
    assert guarded["code"] == 0


def test_nothing_is_left_of_a_server_that_was_stopped(guarded):
    assert guarded["left"] == []


# -- a draft ------------------------------------------------------------------------------------


def _drafted(engines: Engines, folder: Path) -> dict[str, Any]:
    """A pruned model, with a smaller one that drafts for it, on loopback."""
    model, draft = folder / "quarter", folder / "half"
    prune_embedded(model, "0.25")
    prune_embedded(draft, "0.5")
    options = (model, "--draft", draft, "--draft-tokens", 3, "--dtype", "float32", "--json")
    server = Served(engines.python, folder, *options, environment=environment(engines))
    with closing(server):
        seen: dict[str, Any] = {"ready": server.wait_ready(), "model": str(model)}
        seen["text"] = server.complete("quarter", prompt=PROMPT, max_tokens=TOKENS)
        seen["metrics"] = server.ask("/metrics", key=None)[1]
        for name in ("drafts", "draft_tokens", "accepted_tokens"):
            seen[name] = server.metric(f"vllm:spec_decode_num_{name}_total")
        seen["code"], seen["left"] = server.end(signal.SIGINT)
    return seen


@pytest.fixture(scope="module")
def drafted(engines: Engines) -> Any:
    return engines.once("serve-drafted", lambda folder: _drafted(engines, folder))


def test_a_draft_changes_no_token(drafted, capsys):
    status, answer = drafted["text"]
    assert status == 200
    assert answer["choices"][0]["text"] == _generated(Path(drafted["model"]), capsys)


def test_a_draft_drafts_and_some_of_it_is_taken(drafted):
    assert drafted["draft_tokens"] == 3 * drafted["drafts"] > 0
    assert 0 < drafted["accepted_tokens"] < drafted["draft_tokens"]


def test_the_cache_of_both_is_what_the_preflight_counted(drafted):
    ready = drafted["ready"]
    assert ready["kv_tokens"] == ready["preflight"]["kv_tokens"]


def test_a_pruned_model_is_told_by_its_manifest(drafted):
    assert f'digest="{artefact_digest(Path(drafted["model"]))}"' in drafted["metrics"]


def test_ctrl_c_ends_it_as_shells_expect(drafted):
    assert drafted["code"] == 130
    assert drafted["left"] == []


def _generated(model: Path, capsys: Any) -> str:
    """transformers' greedy text."""
    options = ("--max-new-tokens", str(TOKENS), "--dtype", "float32", "--json", "--quiet")
    assert run(["generate", str(model), PROMPT, *options]) == 0
    return str(json.loads(capsys.readouterr().out)["text"])
