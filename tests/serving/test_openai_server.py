"""``slimgpt serve`` of an ONNX export, asked over HTTP: the texts that it gives."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt.demo import MODEL
from tests.serving.openai_client import PROMPT, Answer, Client, serving_chat

PROMPTS = ["Once", "The old man and the sea", "It was", "She", "In the", "My dear", "Two", "I saw"]
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving_chat(tmp_path_factory.mktemp("server")) as found:
        yield found


def _joined(chunks: list[Answer], index: int = 0) -> tuple[str, list[str]]:
    """Text and finish reasons of one answer of a stream."""
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    text = "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)
    return text, [c["finish_reason"] for c in choices if c["finish_reason"]]


# -- texts --------------------------------------------------------------------------------------


def test_greedy_text_is_what_generate_says_in_torch(client, capsys):
    options = ("--max-new-tokens", "32", "--dtype", "float32", "--json", "--quiet")
    assert run(["generate", str(MODEL), PROMPT, *options]) == 0
    expected = json.loads(capsys.readouterr().out)["text"]
    assert client.texts(max_tokens=32) == [expected]


def test_a_document_has_openais_form(client):
    found = client.complete(max_tokens=5)
    assert found["id"].startswith("cmpl-")
    assert (found["object"], found["model"]) == ("text_completion", "chat")
    assert abs(found["created"] - time.time()) < 100
    [choice] = found["choices"]
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    assert found["usage"] == {"prompt_tokens": 6, "completion_tokens": 5, "total_tokens": 11}


@pytest.mark.parametrize(
    "settings",
    [{}, {"n": 3, "temperature": 1, "seed": 5}, {"prompt": PROMPTS[:3], "echo": True}],
    ids=["one", "choices", "prompts"],
)
def test_a_stream_says_what_the_document_says(client, settings):
    body = {"prompt": PROMPT, "max_tokens": 24, **settings}
    whole = client.complete(**body)
    chunks = client.chunks("/v1/completions", stream_options={"include_usage": True}, **body)
    assert [_joined(chunks, i) for i in range(len(whole["choices"]))] == [
        (choice["text"], [choice["finish_reason"]]) for choice in whole["choices"]
    ]
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-1]["choices"] == []
    assert len(chunks) > 2


def test_a_token_without_text_is_told_too_so_that_a_client_sees_when_it_came(client):
    body = {"prompt": PROMPT, "max_tokens": 60, "temperature": 0}
    [text] = client.texts(**body)
    held_back = text + "\u2603"  # the text may be the beginning of it until the very end
    chunks = client.chunks("/v1/completions", stop=[held_back], **body)
    assert _joined(chunks) == (text, ["length"])
    first, *_, last = (chunk["choices"][0] for chunk in chunks)
    assert (first["text"], first["finish_reason"]) == ("", None)
    assert last["text"] == text
    assert len(chunks) > 3


def test_clients_at_the_same_time_get_what_they_get_one_by_one(client):
    def ask(number: int) -> list[str]:
        sampled = {"temperature": 0.9, "top_p": 0.9, "seed": number} if number % 2 else {}
        found: list[str] = client.texts(PROMPTS[number], max_tokens=40 + number, **sampled)
        return found

    one_by_one = [ask(i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == one_by_one


def test_a_seed_decides_and_choices_differ(client):
    settings = {"temperature": 1, "seed": 3, "n": 3, "max_tokens": 12}
    first = client.texts(**settings)
    assert client.texts(**settings) == first
    assert len(set(first)) == 3
    assert client.texts(temperature=1, max_tokens=12) != client.texts(temperature=1, max_tokens=12)


def test_token_ids_are_as_good_as_text(client):
    assert client.texts([1, 2383, 333, 533, 261, 506]) == client.texts(PROMPT)


def test_echo_puts_the_prompt_first(client):
    [text] = client.texts(echo=True)
    assert text == PROMPT + client.texts()[0]


def test_a_stop_string_ends_the_text_and_no_part_of_it_is_streamed(client):
    [text] = client.texts(max_tokens=40)
    stop = text[20:31]
    assert text.find(stop) == 20
    body = {"prompt": PROMPT, "max_tokens": 40, "stop": [stop, "never said"]}
    [choice] = client.complete(**body)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text[:20], "stop")
    assert _joined(client.chunks("/v1/completions", **body)) == (text[:20], ["stop"])


def test_a_stop_token_ends_the_text_and_is_no_part_of_it(client):
    found = client.complete(stop_token_ids=list(range(4096)))
    assert [(c["text"], c["finish_reason"]) for c in found["choices"]] == [("", "stop")]
    assert found["usage"]["completion_tokens"] == 1


def test_log_probabilities_come_with_their_tokens(client):
    body = {"prompt": PROMPT, "max_tokens": 12, "logprobs": 3}
    [choice] = client.complete(**body)["choices"]
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"]
    assert told["text_offset"] == [
        sum(map(len, told["tokens"][:i])) for i in range(len(told["tokens"]))
    ]
    for token, logprob, others in zip(
        told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True
    ):
        assert len(others) == 3
        assert others[token] == logprob == max(others.values())  # greedy
    streamed: dict[str, list[Any]] = {name: [] for name in told}
    for chunk in client.chunks("/v1/completions", **body):
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            streamed[name] += values
    assert streamed == told


# -- chat ---------------------------------------------------------------------------------------


def test_chat_goes_on_where_the_template_ends(client):
    found = client.post("/v1/chat/completions", messages=HELLO, temperature=0, max_tokens=12)
    assert found.status_code == 200, found.text
    document = found.json()
    [choice] = document["choices"]
    assert document["object"] == "chat.completion"
    assert choice["message"]["role"] == "assistant"
    prompt = {"prompt": "user: hello\nassistant:", "add_special_tokens": False}
    plain = client.complete(max_tokens=12, **prompt)
    assert choice["message"]["content"] == plain["choices"][0]["text"]
    assert document["usage"] == plain["usage"]


def test_a_chat_takes_what_is_left_of_the_context(client):
    body = {"messages": HELLO, "temperature": 0, "ignore_eos": True}
    usage = client.post("/v1/chat/completions", **body).json()["usage"]
    assert usage["total_tokens"] == 256


def test_a_streamed_chat_begins_with_the_role(client):
    body = {"messages": HELLO, "max_completion_tokens": 12, "n": 2, "logprobs": True}
    whole = client.post("/v1/chat/completions", temperature=0, top_logprobs=1, **body).json()
    chunks = client.chunks("/v1/chat/completions", top_logprobs=1, **body)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    for i, choice in enumerate(whole["choices"]):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == i]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert _joined(chunks, i)[0] == choice["message"]["content"]
        told = [entry for c in own for entry in (c["logprobs"] or {"content": []})["content"]]
        assert told == choice["logprobs"]["content"]
        assert bytes(told[0]["bytes"]).decode() == told[0]["token"]
        assert len(told[0]["top_logprobs"]) == 1


def test_part_of_a_character_has_no_bytes_of_its_own(client):
    prompt = {"messages": HELLO, "temperature": 1, "seed": 1, "ignore_eos": True}
    found = client.post("/v1/chat/completions", logprobs=True, top_logprobs=20, **prompt)
    entries = [
        other
        for entry in found.json()["choices"][0]["logprobs"]["content"]
        for other in [entry, *entry["top_logprobs"]]
    ]
    for entry in entries:
        whole = "\ufffd" not in entry["token"]
        assert entry["bytes"] == (list(entry["token"].encode()) if whole else None)


def test_a_template_that_refuses_says_why(client):
    messages = [{"role": "tool", "content": "x"}]
    found = client.post("/v1/chat/completions", messages=messages)
    assert found.status_code == 400
    assert "no tools here" in found.json()["error"]["message"]
