"""`slimgpt bench draft` but for its engines: options, prompts, memory, and what is concluded."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.reader import read_config
from slimgpt.cli import run
from slimgpt.demo import EVALUATION, MODEL
from slimgpt.errors import EnvironmentProblem, GateMissed, Unresolved, UsageError
from slimgpt_bench.draft_result import DraftResult, judge
from slimgpt_bench.drafting import (
    DraftOptions,
    Measured,
    Pair,
    Run,
    _order,
    check,
    engine_options,
)
from slimgpt_bench.equality import Reference
from slimgpt_bench.prompts import own_beginnings, text_prompts
from slimgpt_bench.room import engine_need, side_by_side
from slimgpt_serve.preflight.artefact import read_artefact

GIB = 2**30
OPTIONS = DraftOptions(
    text=None,
    prompts=3,
    prompt_tokens=8,
    max_new_tokens=4,
    draft_tokens=(2,),
    repeat=3,
    batch=1,
    seed=0,
    dtype="float32",
    eager=True,
)


def pair(platform: str = "cpu") -> Pair:
    model = read_artefact("dense", MODEL)
    return Pair(model, replace(model, name="draft"), platform, {})


# -- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompts": 0}, "--prompts 0: give at least 1"),
        ({"prompt_tokens": 0}, "--prompt-tokens 0: give at least 1"),
        ({"max_new_tokens": 1}, "--max-new-tokens 1: give at least 2"),
        ({"repeat": 0}, "--repeat 0: give at least 1"),
        ({"batch": -1}, "--batch -1: give at least 1"),
        ({"draft_tokens": (4, 0)}, "--draft-tokens 0: give 1 to 64"),
        ({"draft_tokens": (65,)}, "--draft-tokens 65: give 1 to 64"),
        ({"prompt_tokens": 250}, "need a context of 257, and the models take 256"),
    ],
)
def test_numbers_that_cannot_be_are_refused(change, says):
    with pytest.raises(UsageError, match=says):
        check(pair(), replace(OPTIONS, **change))


def test_draft_tokens_that_are_no_numbers_are_one_line(capsys):
    assert run(["bench", "draft", "a", "b", "--draft-tokens", "2,x"]) == 2
    assert capsys.readouterr().err == (
        "slimgpt: --draft-tokens 2,x: give whole numbers with commas between, like 1,8\n"
    )


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_extra_is_named(capsys):
    assert run(["bench", "draft", str(MODEL), str(MODEL), "--quiet"]) == 4
    assert "slimgpt bench draft needs an optional package" in capsys.readouterr().err


def test_both_models_get_the_engine_that_serves_them():
    alone = engine_options(pair(), OPTIONS, 0, kv_bytes=GIB)
    assert "speculative_config" not in alone
    # Heads of 16, which vLLM's CPU kernels don't take.
    assert alone["hf_overrides"] == {"architectures": ["SlimLlamaForCausalLM"]}
    assert "hf_overrides" not in engine_options(pair("cuda"), OPTIONS, 0, kv_bytes=GIB)
    drafted = engine_options(pair(), OPTIONS, 2, kv_bytes=GIB)
    assert drafted.pop("speculative_config")["num_speculative_tokens"] == 2
    assert drafted == alone


def test_every_engine_comes_first_and_last_in_turn():
    names = [0, 2, 4]
    rounds = [_order(names, number) for number in range(6)]
    assert all(sorted(x) == names for x in rounds)
    assert {x[0] for x in rounds} == {x[-1] for x in rounds} == set(names)
    assert [_order([0, 4], number) for number in range(4)] == [[0, 4], [4, 0], [4, 0], [0, 4]]


# -- prompts ------------------------------------------------------------------------------------


def test_prompts_of_a_text_begin_as_texts_begin_and_do_not_overlap(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"number {i} is here." for i in range(200)))
    meta = read_config(MODEL)
    prompts = text_prompts(meta, text, count=4, length=16)
    assert [len(x) for x in prompts] == [16] * 4
    assert len({tuple(x) for x in prompts}) == 4


def test_rows_of_ids_are_prompts_as_they_are():
    prompts = text_prompts(read_config(MODEL), EVALUATION, count=5, length=128)
    rows = [json.loads(line)["input_ids"] for line in EVALUATION.read_text().splitlines()]
    assert all(prompt in rows for prompt in prompts)


def test_too_short_a_text_is_refused_in_the_users_words(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a few words")
    with pytest.raises(UsageError, match=r"has 0 windows of --prompt-tokens 64, fewer than"):
        text_prompts(read_config(MODEL), text, count=4, length=64)


def test_text_and_ids_in_one_file_are_refused(tmp_path):
    text = tmp_path / "rows.jsonl"
    text.write_text('{"input_ids": [1, 2, 3]}\n{"text": "words"}\n')
    with pytest.raises(UsageError, match="mixes rows of text with rows of token ids"):
        text_prompts(read_config(MODEL), text, count=1, length=2)


def test_a_models_own_texts_begin_with_its_first_token():
    assert own_beginnings(read_config(MODEL), 3, seed=0) == [[1]] * 3


# -- memory -------------------------------------------------------------------------------------


def test_engines_stand_side_by_side_only_where_all_fit():
    shape = read_config(MODEL).shape
    need = engine_need([shape, shape], "cpu", "float32", texts=4, context=64, step_tokens=2048)
    alone = engine_need([shape], "cpu", "float32", texts=4, context=64, step_tokens=2048)
    assert need.kv_bytes == 2 * alone.kv_bytes
    both = need.total_bytes + alone.total_bytes
    assert side_by_side([need, alone], both)
    assert not side_by_side([need, alone], both - 1)
    assert not side_by_side([need, alone], None)
    with pytest.raises(EnvironmentProblem, match="DENSE with DRAFT needs about"):
        side_by_side([need, alone], need.total_bytes - 1)


# -- conclusions --------------------------------------------------------------------------------


def batch(ids: list[int], seconds: float, counters: list[int]) -> dict[str, Any]:
    return {"ids": [ids], "decode_s": seconds, "decode_tokens": 3, "counters": counters}


def concluded(
    speeds: tuple[float, ...], said: list[int] | None = None, options: DraftOptions = OPTIONS
) -> DraftResult:
    """A dense model at one token a second, and a draft at those speeds."""
    said = said or [7, 7, 7, 7]
    about = {"vllm": "1", "torch": "2", "device": "cpu", "threads": 1}
    dense = Measured([[batch([7] * 4, 3.0, [0, 0, 0])] * 3 for _ in speeds], about)
    drafted = Measured([[batch(said, 3.0 / x, [2, 4, 3, 2, 1])] * 3 for x in speeds], about)
    reference = Reference((7,) * 4, ({7: -1.0, 8: -1.0002, 9: -3.0},) * 4)
    run_ = Run({0: dense, 2: drafted}, (reference,) * 3, 0.0, together=True)
    return judge(pair(), replace(options, repeat=len(speeds)), run_)


def test_acceptance_is_counted_by_position_and_by_step():
    row = concluded((1.5, 1.5, 1.5)).to_json()["drafts"][0]
    assert row["acceptance"] == {
        "steps": 6,
        "drafted": 12,
        "accepted": 9,
        "rate": 0.75,
        "interval": [0.75, 0.75],
        "n": 3,
        "tokens_per_step": 2.5,
        "per_position": [1.0, 0.5],
    }


def test_the_ratio_is_of_decode_speeds_of_the_same_round():
    result = concluded((1.5, 1.6, 1.4))
    row = result.to_json()["drafts"][0]
    assert row["ratio"] == pytest.approx(1.5, abs=0.01)
    assert row["verdict"] == "faster"
    assert row["n"] == 3
    assert result.problem() is None


def test_too_few_rounds_are_insufficient_and_unresolved():
    result = concluded((1.5, 1.5))
    row = result.to_json()["drafts"][0]
    assert (row["interval"], row["verdict"]) == ("insufficient", "unresolved")
    problem = result.problem()
    assert isinstance(problem, Unresolved)
    assert str(problem) == ("--repeat 2 gives too few rounds for an interval: give at least 3")


def test_an_interval_around_one_is_unresolved():
    problem = concluded((0.8, 1.3, 1.0)).problem()
    assert isinstance(problem, Unresolved)
    assert "whether --draft-tokens 2 is faster can't be told" in str(problem)


def test_a_slower_draft_is_a_result_and_no_failure():
    result = concluded((0.5, 0.5, 0.5))
    assert result.outcomes[0].verdict == "slower"
    assert result.problem() is None


def test_outputs_that_part_at_a_tie_are_told_and_pass():
    result = concluded((1.5, 1.5, 1.5), said=[7, 8, 7, 7])
    assert result.outcomes[0].equality.to_json()["ties"] == 3
    assert result.problem() is None


def test_other_outputs_miss_the_gate_and_name_the_first():
    problem = concluded((1.5, 1.5, 1.5), said=[7, 7, 9, 7]).problem()
    assert isinstance(problem, GateMissed)
    assert str(problem) == (
        "with --draft-tokens 2 3 of 3 answers are not the dense model's: prompt 0 has token 9 at "
        "position 2 instead of 7, which is likelier by 2 nats, and 0.001 would be a tie; this "
        "vLLM accepts what it should not, so don't serve with this draft"
    )


def test_the_core_reaches_the_benchmark_by_name_alone():
    for path in sorted((Path(__file__).parents[2] / "slimgpt").rglob("*.py")):
        source = path.read_text()
        assert "import slimgpt_bench" not in source, path
        assert "from slimgpt_bench" not in source, path
