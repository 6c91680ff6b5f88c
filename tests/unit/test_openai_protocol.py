"""Which requests of OpenAI's API are understood, and what the others are answered."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from slimgpt_serve.openai_api.app import refusal_of
from slimgpt_serve.openai_api.protocol import ChatRequest, CompletionRequest, GenerationRequest
from slimgpt_serve.openai_api.refusal import Refusal
from slimgpt_serve.openai_api.unsupported import HARMLESS

HELLO = [{"role": "user", "content": "hello"}]


def _chat_of(**body: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": HELLO, **body})


def _refused(kind: type[GenerationRequest], **body: Any) -> Refusal:
    """What a body is answered, as the app answers it."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    errors = [error | {"loc": ("body", *error["loc"])} for error in caught.value.errors()]
    return refusal_of(errors)


def _complete(**body: Any) -> Refusal:
    return _refused(CompletionRequest, **{"prompt": "x", **body})


def _chat(**body: Any) -> Refusal:
    return _refused(ChatRequest, **{"messages": HELLO, **body})


# -- what is understood -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([5, 6], [[5, 6]]),
        ([[5], [6, 7]], [[5], [6, 7]]),
        ("", [""]),
    ],
)
def test_a_prompt_is_text_or_token_ids_one_or_several(prompt, prompts):
    assert CompletionRequest(prompt=prompt).prompts == prompts


def test_answers_are_counted_before_they_are_made():
    assert CompletionRequest(prompt=["a", "b", "c"], n=5).answers == 15
    assert CompletionRequest(prompt="x").answers == 1
    assert _chat_of(n=2).answers == 2


def test_defaults_are_openais():
    completion, chat = CompletionRequest(prompt="x"), _chat_of()
    assert (completion.default_tokens, chat.default_tokens) == (16, None)
    for request in (completion, chat):
        assert (request.temperature, request.top_p, request.n) == (1.0, 1.0, 1)
        assert request.asked_tokens is None
        assert not request.stream


def test_null_is_the_same_as_nothing():
    fields = ("temperature", "n", "stop", "logprobs", "stream", "seed", "tools", "logit_bias")
    given = CompletionRequest.model_validate({"prompt": "x", **dict.fromkeys(fields)})
    assert given == CompletionRequest(prompt="x")


def test_what_nobody_knows_is_ignored():
    given = CompletionRequest.model_validate({"prompt": "x", "user": "me", "flavour": 7})
    assert given == CompletionRequest(prompt="x")


def test_the_newer_name_of_max_tokens_counts_first():
    request = _chat_of(max_tokens=3, max_completion_tokens=5)
    assert request.asked_tokens == 5
    assert _chat_of(max_tokens=3).asked_tokens == 3


def test_stop_is_one_string_or_several():
    assert CompletionRequest(prompt="x", stop="a").stop_strings == ("a",)
    assert CompletionRequest(prompt="x", stop=["a", "b"]).stop_strings == ("a", "b")
    assert CompletionRequest(prompt="x").stop_strings == ()


def test_parts_of_a_message_are_joined_and_nothing_is_an_empty_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "system", "content": parts, "name": "me"},
        {"role": "assistant", "content": None},
    ]
    request = ChatRequest.model_validate({"messages": messages})
    assert [message.as_template_reads_it() for message in request.messages] == [
        {"role": "system", "content": "a\nb", "name": "me"},
        {"role": "assistant", "content": ""},
    ]


def test_log_probabilities_are_asked_for_in_two_ways():
    assert CompletionRequest(prompt="x").alternatives is None
    assert CompletionRequest(prompt="x", logprobs=0).alternatives == 0
    assert _chat_of().alternatives is None
    assert _chat_of(logprobs=True).alternatives == 0
    assert _chat_of(logprobs=True, top_logprobs=2).alternatives == 2


@pytest.mark.parametrize("field", sorted(HARMLESS))
def test_a_value_that_asks_for_nothing_is_no_reason_to_refuse(field):
    for value in (None, *HARMLESS[field]):
        given = CompletionRequest.model_validate({"prompt": "x", field: value})
        assert given == CompletionRequest(prompt="x")


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("best_of", 2),
        ("suffix", "end"),
        ("logit_bias", {"5": -100}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", 0.5),
        ("min_p", 0.1),
        ("min_tokens", 3),
        ("use_beam_search", True),
        ("response_format", {"type": "json_object"}),
        ("guided_choice", ["a"]),
        ("include_stop_str_in_output", True),
        ("prompt_logprobs", 1),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(field, value):
    refusal = _complete(**{field: value})
    assert (refusal.status, refusal.param) == (400, field)
    assert refusal.message == f"{field} is not supported by this server: leave it out"


def test_tools_and_what_belongs_to_them_are_refused():
    tool = {"type": "function", "function": {"name": "f"}}
    assert _chat(tools=[tool]).param == "tools"
    assert _chat(tool_choice={"type": "function"}).param == "tool_choice"
    called = [{"role": "assistant", "content": None, "tool_calls": [tool]}]
    refusal = _chat(messages=called)
    assert refusal.param == "messages"
    assert "tool calls in messages are not supported" in refusal.message


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"temperature": -1}, "temperature", "temperature: Input should be greater than or equal"),
        ({"temperature": float("nan")}, "temperature", "temperature: Input should be a finite"),
        ({"top_p": 0}, "top_p", "top_p: Input should be greater than 0"),
        ({"repetition_penalty": 0}, "repetition_penalty", "should be greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "should be greater than or equal to 1"),
        ({"n": 129}, "n", "less than or equal to 128"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"prompt": {"text": "x"}}, "prompt", "prompt takes a string, a list of strings, a list"),
        ({"prompt": [5, "x"]}, "prompt", "prompt takes a string, a list of strings, a list"),
        ({"prompt": []}, "prompt", "prompt is empty"),
        ({"prompt": [[]]}, "prompt", "prompt is empty"),
        ({"prompt": [-1]}, "prompt", "prompt takes a string"),
        ({"stop": [""]}, "stop", "stop takes a string or up to 16 strings, each of 1 to 256"),
        ({"stop": ["a"] * 17}, "stop", "stop takes a string or up to 16 strings"),
        ({"stream_options": {}}, "stream_options", "stream_options means nothing without stream"),
        ({"echo": True, "logprobs": 1}, "echo", "echo with logprobs is not supported"),
    ],
)
def test_a_field_that_is_wrong_is_named(body, param, says):
    refusal = _complete(**body)
    assert (refusal.status, refusal.param) == (400, param)
    assert says in refusal.message


def test_a_missing_prompt_is_named():
    refusal = _refused(CompletionRequest)
    assert (refusal.param, refusal.message) == ("prompt", "prompt: Field required")


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"messages": []}, "messages", "messages: List should have at least 1 item"),
        ({"messages": [{"content": "x"}]}, "messages", "messages.0.role: Field required"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages",
            "messages take text alone",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "top_logprobs means nothing without logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "greater than or equal to 1"),
        ({"add_generation_prompt": False}, "add_generation_prompt", "not supported"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "not supported"),
        (
            {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
            "chat_template_kwargs",
            "chat_template_kwargs may not set chat_template: it takes variables of the template",
        ),
    ],
)
def test_a_chat_that_is_wrong_is_told_where(body, param, says):
    refusal = _chat(**body)
    assert (refusal.status, refusal.param) == (400, param)
    assert says in refusal.message


def test_an_error_has_openais_form():
    refusal = Refusal(400, "no", param="n", code="c")
    assert refusal.body() == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "c"}
    }
    assert Refusal(503, "x").body()["error"]["type"] == "server_error"
    assert Refusal(429, "x", retry_after_s=3).headers() == {"Retry-After": "3"}
