"""What is read out of a streamed answer: when output came, how much, and how it ended."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimgpt_bench.load.answer import Answer
from slimgpt_bench.load.record import Record
from slimgpt_bench.load.sse import LARGEST_EVENT, EventReader, TooLarge
from slimgpt_bench.load.tokens import count


def _text(text: str | None, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}


def _delta(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def _usage(prompt: Any, output: Any) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}}


def _record(asked: int = 3) -> Record:
    return Record(0, "measured", 5, asked, scheduled=0.0, released=0.0, sent=0.5)


def _settled(*events: Any, asked: int = 3) -> Record:
    """A record of an answer whose events came a second apart, from second 1 on."""
    answer, record = Answer(), _record(asked)
    for at, event in enumerate(events, 1):
        answer.feed(float(at), event if isinstance(event, str) else json.dumps(event))
    answer.settle(record)
    return record


# -- events -------------------------------------------------------------------------------------

STREAM = b': hello\ndata: {"a": 1}\n\nevent: x\r\ndata: b\r\ndata: c\r\n\r\ndata: [DONE]\n\n'


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_do_not_depend_on_where_the_network_cuts_them(cuts):
    reader = EventReader()
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[a:b] for a, b in pairwise(edges)]
    found = [event for part in parts for event in reader.feed(part)]
    assert found == ['{"a": 1}', "b\nc", "[DONE]"]


def test_an_event_without_an_empty_line_counts_at_the_end():
    reader = EventReader()
    assert list(reader.feed(b"data: a")) == []
    assert list(reader.finish()) == ["a"]


@pytest.mark.parametrize("part", [b"x" * (LARGEST_EVENT + 1), b"data: " + b"x" * 2**20 + b"\n"])
def test_an_endless_event_is_not_kept(part):
    reader = EventReader()
    with pytest.raises(TooLarge):
        list(reader.feed(20 * part))


# -- answers ------------------------------------------------------------------------------------


def test_times_run_from_the_schedule_and_service_from_the_send():
    record = _settled(_text("a"), _text("b"), _text("c", "length"), _usage(5, 3), "[DONE]")
    assert (record.ok, record.times, record.ended) == (True, [1, 2, 3], 3)
    assert (record.ttft_s, record.e2e_s, record.tpot_s) == (1, 3, 1)
    assert (record.service_ttft_s, record.service_e2e_s, record.queue_s) == (0.5, 2.5, 0.5)
    assert record.gaps_s == [1, 1]
    assert (record.prompt_tokens, record.output_tokens, record.finish_reason) == (5, 3, "length")


def test_whose_turn_it_is_and_the_end_are_no_output():
    record = _settled(
        _delta(role="assistant", content=""),
        _delta(content="a"),
        _delta(content="b"),
        _delta("stop"),
        _usage(5, 2),
        "[DONE]",
    )
    assert (record.times, record.ended) == ([2, 3], 4)


@pytest.mark.parametrize("name", ["content", "reasoning_content", "tool_calls"])
def test_every_kind_of_output_counts(name):
    record = _settled(_delta(**{name: "x"}), _delta("stop"), "[DONE]")
    assert record.times == [1]


def test_an_empty_chunk_at_the_start_is_no_first_token():
    record = _settled(_text(""), _text("a"), _text("b"), _text("c", "length"), _usage(5, 3))
    assert record.ttft_s == 2


def test_a_token_without_a_whole_character_is_one_where_each_chunk_is_a_token():
    record = _settled(_text(""), _text("é"), _text("b", "length"), _usage(5, 3), "[DONE]")
    assert record.times == [1, 2, 3]
    ended = _settled(_text("a"), _text(""), _text("", "length"), _usage(5, 3), "[DONE]")
    assert ended.times == [1, 2, 3]
    alone = _settled(_text("", "length"), _usage(5, 1), "[DONE]", asked=1)
    assert (alone.ok, alone.times) == (True, [1])


def test_tokens_that_come_together_share_their_time():
    record = _settled(_text("ab"), _text("cd", "length"), _usage(5, 4), asked=4)
    assert (record.tokens, record.times, record.tpot_s) == (4, [1, 2], 1 / 3)


def test_one_token_has_no_time_per_output_token():
    assert _settled(_text("a", "length"), _usage(5, 1), asked=1).tpot_s is None
    whole = _settled(_text("abc", "length"), _usage(5, 3))
    assert (whole.tpot_s, whole.gaps_s) == (None, [])


def test_without_a_usage_chunks_are_counted():
    record = _settled(_text("a"), _text("b", "length"), "[DONE]")
    assert (record.tokens, record.output_tokens) == (2, None)


ENDINGS: dict[str, tuple[list[Any], str, str]] = {
    "nothing": ([], "no_tokens", "without output"),
    "only the end": (["[DONE]"], "no_tokens", "without output"),
    "only a usage": ([_text("", "length"), _usage(5, 64), "[DONE]"], "no_tokens", "says 64 tokens"),
    "an error": ([{"error": {"message": "no room"}}], "error_in_stream", "no room"),
    "an error by its kind": ([{"object": "error", "message": "old"}], "error_in_stream", "old"),
    "an error, half-way": ([_text("a"), {"error": "late"}], "error_in_stream", "late"),
    "no JSON": (["<html>"], "bad_response", "no JSON"),
    "no object": (["3"], "bad_response", "no object"),
    "no choice": ([{"choices": [3]}], "bad_response", "a choice is no object"),
    "no end": ([_text("a"), _text("b")], "truncated", "broke off"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_is_no_answer_is_a_failure_of_its_class(name):
    events, kind, detail = ENDINGS[name]
    record = _settled(*events)
    assert (record.ok, record.failure) == (False, kind)
    assert detail in record.detail


def test_a_raw_record_has_no_text_in_it():
    record = _settled(_text("secret"), _text("b", "length"), _usage(5, 2), "[DONE]", asked=2)
    told = record.to_json(3, origin=1.0)
    assert "secret" not in json.dumps(told)
    assert (told["level"], told["ttft_s"], told["ended_s"], told["gaps_s"]) == (3, 1, 1, [1])


# -- token counts -------------------------------------------------------------------------------

GOOD = (_text("a"), _text("b"), _text("c", "length"))
COUNTS: dict[str, tuple[list[Any], int, str]] = {
    "right": ([*GOOD, _usage(5, 3)], 3, ""),
    "prompt": ([*GOOD, _usage(6, 3)], 3, "wrong token counts"),
    "more than asked": ([*GOOD, _usage(5, 4)], 3, "wrong token counts"),
    "fewer than chunks": ([*GOOD, _usage(5, 1)], 3, "wrong token counts"),
    "shorter than its length": ([*GOOD, _usage(5, 3)], 4, "wrong token counts"),
    "none": ([*GOOD], 3, "without a usage"),
    "no numbers": ([*GOOD, _usage("5", True)], 3, "without a usage"),
    "stopped": ([_text("a"), _text("b", "stop"), _usage(5, 2)], 3, "ended before the asked length"),
    "one piece": ([_text("abc", "length"), _usage(5, 3)], 3, "does not stream"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_can_not_be_right_are_found(name):
    events, asked, problem = COUNTS[name]
    found = count([_settled(*events, "[DONE]", asked=asked)], ignore_eos=True).problems()
    assert len(found) == bool(problem)
    assert problem in "".join(found)


def test_an_answer_may_end_by_itself_where_it_is_allowed_to():
    record = _settled(_text("a"), _text("b", "stop"), _usage(5, 2), "[DONE]")
    assert not count([record], ignore_eos=False).problems()


def test_text_that_was_kept_back_does_not_make_counts_wrong():
    record = _settled(_text("a"), _text("b"), _text("c", "stop"), _usage(5, 2), "[DONE]")
    assert count([record], ignore_eos=False).usage_mismatches == 0
