"""From a request to what the engine generates: limits, seeds, prompts."""

from __future__ import annotations

from typing import Any

import pytest

from slimgpt.demo import MODEL
from slimgpt_serve.openai_api.asks import Asks
from slimgpt_serve.openai_api.events import Ask
from slimgpt_serve.openai_api.protocol import ChatRequest, CompletionRequest
from slimgpt_serve.openai_api.refusal import Refusal
from tests.onnx_serving import tokenizer_of, with_chat_template

CAPACITY, EOS = 20, 2
TOKENIZER = tokenizer_of(MODEL)


def _asks(seed: int = 0, tokenizer: Any = TOKENIZER) -> Asks:
    return Asks(tokenizer, vocabulary=4096, capacity=CAPACITY, eos=frozenset({EOS}), seed=seed)


def _complete(prompt: Any = "Once upon", **fields: Any) -> list[Ask]:
    body = {"prompt": prompt, **fields}
    return _asks().completions(CompletionRequest.model_validate(body))


def _refused(prompt: Any = "Once upon", **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        _complete(prompt, **fields)
    return caught.value


def test_a_prompt_becomes_what_generate_makes_of_it():
    [ask] = _complete("Once upon")
    assert list(ask.prompt) == TOKENIZER.encode("Once upon")
    [bare] = _complete("Once upon", add_special_tokens=False)
    assert bare.prompt == ask.prompt[1:]
    [ids] = _complete([5, 6])
    assert ids.prompt == (5, 6)


def test_answers_are_in_the_order_of_prompts_and_choices():
    asks = _complete([[5], [6]], n=2)
    assert [ask.prompt for ask in asks] == [(5,), (5,), (6,), (6,)]


def test_each_choice_has_a_seed_of_its_own():
    assert [ask.sampling.seed for ask in _complete(n=3, seed=7)] == [7, 8, 9]
    assert _complete(seed=-1)[0].sampling.seed == 2**64 - 1


def test_seeds_that_nobody_gave_follow_from_the_servers():
    def drawn(seed: int) -> list[int]:
        asks, request = _asks(seed), CompletionRequest(prompt="x")
        return [asks.completions(request)[0].sampling.seed for _ in range(3)]

    assert drawn(0) == drawn(0)
    assert len({*drawn(0), *drawn(1)}) == 6


def test_a_completion_has_16_tokens_or_what_is_left():
    assert _complete([5])[0].max_tokens == 16
    assert _complete([5] * 10)[0].max_tokens == 10
    assert _complete([5] * 10, max_tokens=3)[0].max_tokens == 3


def test_a_prompt_that_leaves_no_room_is_refused_with_the_numbers():
    refusal = _refused([5] * 20)
    assert (refusal.status, refusal.param, refusal.code) == (
        400,
        "prompt",
        "context_length_exceeded",
    )
    assert refusal.message == (
        "the prompt has 20 tokens, and this server takes 20 of prompt and answer together: shorten "
        "it, or start the server with a larger --max-model-len if the model's context allows"
    )


def test_an_answer_that_does_not_fit_is_refused_with_what_does():
    refusal = _refused([5] * 15, max_tokens=6)
    assert refusal.param == "max_tokens"
    assert refusal.message == (
        "the prompt has 15 tokens and max_tokens is 6, and this server takes 20 of prompt and "
        "answer together: give max_tokens of at most 5, or shorten the prompt"
    )


def test_ids_that_the_model_does_not_know_are_refused():
    assert _refused([5, 4096]).message == (
        "prompt has the token id 4096, and the model knows 0 to 4095: use its own tokenizer"
    )


def test_tokens_that_the_tokenizer_has_and_the_model_has_not_are_refused(tmp_path):
    tokenizer = tokenizer_of(with_chat_template(MODEL, tmp_path / "chat"))
    asks = Asks(tokenizer, vocabulary=300, capacity=CAPACITY, eos=frozenset(), seed=0)
    chat = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Once upon"}]})
    makes: list[tuple[str, Any]] = [
        ("prompt", lambda: asks.completions(CompletionRequest(prompt="Once upon"))),
        ("messages", lambda: asks.chat(chat)),
    ]
    for field, make in makes:
        with pytest.raises(Refusal, match="and the model knows 0 to 299") as caught:
            make()
        assert (caught.value.status, caught.value.param) == (400, field)


def test_a_prompt_without_tokens_is_refused():
    refusal = _refused("", add_special_tokens=False)
    assert refusal.message == "the prompt has no tokens: give some text to go on from"


def test_end_tokens_are_the_models_and_the_clients():
    assert _complete()[0].end_ids == {EOS}
    assert _complete(stop_token_ids=[9])[0].end_ids == {EOS, 9}
    assert _complete(stop_token_ids=[9], ignore_eos=True)[0].end_ids == {9}


def test_vllms_word_for_all_tokens_is_understood():
    assert _complete(top_k=-1)[0].sampling.top_k == 0


def test_chat_needs_a_template_and_says_so():
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}]})
    with pytest.raises(Refusal) as caught:
        _asks().chat(request)
    assert (caught.value.status, caught.value.param) == (400, "messages")
    assert caught.value.message.startswith("the model has no chat template: ask for completions")


def test_a_conversation_is_written_as_the_template_says(tmp_path):
    asks = _asks(tokenizer=tokenizer_of(with_chat_template(MODEL, tmp_path / "chat")))
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "chat_template_kwargs": {"ending": " Well"},
    }
    [ask] = asks.chat(ChatRequest.model_validate(body))
    assert list(ask.prompt) == TOKENIZER.encode("user: hi\nassistant: Well", special=False)
    assert ask.max_tokens == CAPACITY - len(ask.prompt)
