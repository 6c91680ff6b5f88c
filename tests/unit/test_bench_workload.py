"""The requests that a workload is made of: the same for the same seed, and as long as asked."""

from __future__ import annotations

import json
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import Any

import pytest

from slimgpt.demo import MODEL
from slimgpt.errors import UsageError
from slimgpt_bench.load.options import LoadOptions
from slimgpt_bench.workload.arrivals import Arrivals
from slimgpt_bench.workload.making import Serves, make_workload
from slimgpt_bench.workload.sources import TokenIds, Words
from slimgpt_bench.workload.workload import Request, Workload


def _written(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def _workload(
    serves: Serves | None = None, counted: Words | None = None, **options: Any
) -> Workload:
    asked = LoadOptions(**{"rates": (1.0,), "prompt": "4:40", "output": "2:9", **options})
    found = make_workload(asked, serves or Serves(vocabulary=100), counted)
    assert found
    return found


def _some(workload: Workload, level: int = 0, count: int = 300) -> list[Request]:
    return list(islice(workload.open(level, Arrivals(10.0)), count))


def test_the_same_seed_asks_the_same_and_another_level_does_not():
    first, again = _some(_workload()), _some(_workload())
    assert first == again
    assert first != _some(_workload(), level=1)
    assert first != _some(_workload(seed=1))


def test_requests_have_their_lengths_exactly_and_come_in_order():
    requests = _some(_workload())
    assert all(len(x.prompt) == x.prompt_tokens for x in requests)
    assert {x.prompt_tokens for x in requests} >= set(range(10, 35))
    assert {x.output_tokens for x in requests} == set(range(2, 10))
    assert all(b.at_s > a.at_s > 0 for a, b in pairwise(requests) if a.at_s and b.at_s)


def test_the_rate_moves_the_times_and_nothing_else():
    workload = _workload()
    slow = list(islice(workload.open(0, Arrivals(1.0)), 300))
    fast = list(islice(workload.open(0, Arrivals(10.0)), 300))
    assert [(x.prompt, x.output_tokens) for x in slow] == [
        (x.prompt, x.output_tokens) for x in fast
    ]
    assert [x.at_s for x in fast] == pytest.approx([(x.at_s or 0) / 10 for x in slow])


def test_a_closed_loop_has_no_times():
    assert {x.at_s for x in islice(_workload().closed(0), 20)} == {None}


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"prompt": "4:41"},
        {"output": "2"},
        {"vocabulary": 99},
        {"endpoint": "completions", "arrival": "constant"},
        {"ignore_eos": False},
        {"extra_body": {"temperature": 1}},
    ],
)
def test_the_digest_is_of_everything_that_decides_the_requests(other):
    assert _workload().digest == _workload(rates=(2.0, 5.0)).digest
    assert _workload().digest != _workload(**other).digest


def test_special_tokens_are_not_drawn():
    workload = _workload(Serves(tokenizer=MODEL, vocabulary=4096), prompt="64")
    assert isinstance(workload.source, TokenIds)
    from slimgpt.tokenizer import load_tokenizer

    special = load_tokenizer(MODEL).all_special_ids
    assert special
    assert not set(special) & set(workload.source.ids)
    assert max(workload.source.ids) < 4096


def test_chat_prompts_are_fitted_to_the_tokenizer():
    workload = _workload(Serves(tokenizer=MODEL), prompt="50", endpoint="chat")
    from slimgpt.tokenizer import encode, load_tokenizer

    tokenizer = load_tokenizer(MODEL)
    for request in islice(workload.closed(0), 20):
        assert isinstance(request.prompt, str)
        assert len(encode(tokenizer, request.prompt)) == pytest.approx(50, abs=2)


def test_words_are_as_many_as_the_server_counts():
    workload = _workload(Serves(), Words(tokens_per_word=2, extra_tokens=3), prompt="43")
    [request] = islice(workload.closed(0), 1)
    assert len(str(request.prompt).split()) == 20
    assert request.prompt_tokens is None


def test_words_need_to_be_counted_by_the_server():
    assert make_workload(LoadOptions(rates=(1.0,)), Serves(), None) is None


def test_a_dataset_gives_each_prompt_once_before_any_comes_again(tmp_path):
    rows = [{"prompt": f"number {i}", "output_tokens": i + 1} for i in range(7)]
    path = _written(tmp_path / "x.jsonl", *rows)
    workload = _workload(prompt=None, output=None, dataset=path)
    for level in (0, 1):
        drawn = list(islice(workload.closed(level), 14))
        assert len({x.prompt for x in drawn[:7]}) == 7
        assert [x.prompt for x in drawn[:7]] == [x.prompt for x in drawn[7:]]
        assert all(x.output_tokens == int(str(x.prompt).split()[1]) + 1 for x in drawn)


def test_answers_of_a_dataset_decide_the_length_where_nothing_else_does(tmp_path):
    path = _written(tmp_path / "x.jsonl", {"prompt": "Why?", "completion": "Because of the sea."})
    from slimgpt.tokenizer import encode, load_tokenizer

    counted = len(encode(load_tokenizer(MODEL), "Because of the sea."))
    for serves, output, expected in (
        (Serves(tokenizer=MODEL), None, counted),
        (Serves(), None, 64),
        (Serves(tokenizer=MODEL), "9", 9),
    ):
        workload = _workload(serves, prompt=None, output=output, dataset=path)
        assert next(workload.closed(0)).output_tokens == expected


def test_windows_of_a_text_have_the_asked_length(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("Once upon a time there was an old man and the sea. " * 20)
    ids = next(_workload(Serves(tokenizer=MODEL), prompt="30", dataset=path).closed(0))
    assert ids.prompt_tokens == 30
    text = next(_workload(Serves(), prompt="30", dataset=path).closed(0))
    assert len(str(text.prompt).split()) == 30
    with pytest.raises(UsageError, match="give a longer text or a shorter --prompt"):
        _workload(Serves(), prompt="10000", dataset=path)


def test_a_trace_is_replayed_at_its_times_or_at_a_rate(tmp_path):
    rows = [{"at_s": i / 2, "prompt_tokens": i + 1, "output_tokens": 3} for i in range(5)]
    path = _written(tmp_path / "trace.jsonl", *rows)
    workload = _workload(prompt=None, output=None, trace=path)
    assert [x.at_s for x in workload.replay()] == [0, 0.5, 1, 1.5, 2]
    assert [x.at_s for x in workload.replay(2)] == [0, 0.25, 0.5, 0.75, 1]
    assert [x.prompt_tokens for x in workload.replay()] == [1, 2, 3, 4, 5]
    with pytest.raises(UsageError, match="--trace has the lengths of its own"):
        _workload(output=None, trace=path)


def test_whole_prompts_have_lengths_of_their_own(tmp_path):
    path = _written(tmp_path / "x.jsonl", {"prompt": "Why?"})
    with pytest.raises(UsageError, match="leave --prompt out"):
        _workload(dataset=path)


def test_a_rate_beyond_any_client_costs_no_memory_until_it_is_sent():
    within = takewhile(lambda x: (x.at_s or 0) < 1e-4, _workload().open(0, Arrivals(1e6)))
    assert 50 < len(list(within)) < 200
