"""Ratios recover what was put in, equal models are no different, and what differs is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimgpt.demo import MODEL
from slimgpt.errors import GateMissed, SlimGPTError, Unresolved, UsageError
from slimgpt_bench.artefact import Artefact, describe
from slimgpt_bench.compare.by_depth import layers_to_drop
from slimgpt_bench.compare.decision import decide, require_required
from slimgpt_bench.compare.experiment import Experiment, Run, order
from slimgpt_bench.compare.job import CompareOptions
from slimgpt_bench.compare.ratios import cell_ratios, expected, failures, ratio_of
from slimgpt_bench.compare.sides import (
    DENSE,
    PRUNED,
    THIRD,
    Side,
    require_comparable,
    require_same_settings,
)
from slimgpt_bench.latency import Cell, LatencyOptions, Times, Trials

CELL = Cell(1, 8, 4)
OPTIONS = LatencyOptions("transformers", (CELL,), device="cpu")


# -- statistics ------------------------------------------------------------------------------------


def simulated(
    rng: np.random.Generator,
    ratio: float,
    *,
    rounds: int = 4,
    trials: int = 10,
    drift: float = 0.0,
    roles: tuple[str, ...] = (DENSE, PRUNED),
) -> Experiment:
    """Runs whose level varies by 5 % from process to process, and trials by 3 %."""
    runs, number = [], 0
    for block in range(rounds):
        for place, role in enumerate([*roles, *reversed(roles)]):
            level = 0.1 * np.exp(rng.normal(0, 0.05)) * (1 + drift * number)
            level /= ratio if role == PRUNED else 1
            times = tuple(moments(level * np.exp(rng.normal(0, 0.03))) for _ in range(trials))
            runs.append(Run(role, block, place, {CELL: Trials(CELL, times)}))
            number += 1
    return Experiment(tuple(runs), {})


def moments(step: float) -> Times:
    return Times(step, tuple(step * (i + 1) for i in range(CELL.output_tokens)))


def verdicts(ratio: float, count: int = 300, **how: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    found = (simulated(rng, ratio, **how) for _ in range(count))
    return [
        ratio_of(
            *([[run.of("tpot_s") for run in b] for b in x.blocks(r, CELL)] for r in (DENSE, PRUNED))
        ).to_json()
        for x in found
    ]


def test_equal_models_are_told_apart_no_more_often_than_by_chance():
    told = [x["verdict"] for x in verdicts(1.0)]
    wrong = sum(x in ("faster", "slower") for x in told)
    assert wrong <= 0.05 * len(told) + 3 * (0.05 * 0.95 * len(told)) ** 0.5


@pytest.mark.parametrize("ratio", [0.8, 1.2, 1.5])
def test_an_injected_ratio_lies_within_the_interval_as_often_as_it_says(ratio: float) -> None:
    told = verdicts(ratio)
    held = sum(x["interval"][0] <= ratio <= x["interval"][1] for x in told)
    assert held >= 0.95 * len(told) - 3 * (0.05 * 0.95 * len(told)) ** 0.5
    right = "faster" if ratio > 1 else "slower"
    assert sum(x["verdict"] == right for x in told) > 0.9 * len(told)


def test_a_machine_that_slows_down_evenly_slows_both_alike():
    rng = np.random.default_rng(2)
    found = simulated(rng, 1.0, rounds=40, drift=0.01)
    ratio = ratio_of(
        *([[x.of("e2e_s") for x in b] for b in found.blocks(r, CELL)] for r in (DENSE, PRUNED))
    )
    assert ratio.value == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("rounds", [1, 2])
def test_fewer_than_three_rounds_have_no_interval(rounds: int) -> None:
    (told,) = verdicts(1.5, 1, rounds=rounds)
    assert told["interval"] == "insufficient"
    assert told["verdict"] == "unresolved"
    assert told["ratio"] == pytest.approx(1.5, rel=0.2)


def test_a_block_without_a_time_leaves_no_ratio():
    whole, empty = [[[1.0], [1.0]]] * 3, [[[1.0], [1.0]], [[1.0], []], [[1.0], [1.0]]]
    assert ratio_of(whole, empty).to_json() == {
        "ratio": "insufficient",
        "interval": "insufficient",
        "verdict": "unresolved",
    }


def test_a_third_model_stands_in_the_same_blocks():
    found = simulated(np.random.default_rng(3), 1.5, roles=(DENSE, PRUNED, THIRD))
    told = cell_ratios(found, CELL, third=True, seed=0)["tpot_s"]
    assert told["third"]["ratio"] == pytest.approx(1.0, rel=0.1)
    assert told["third"]["pruned_against_third"]["ratio"] == pytest.approx(1.5, rel=0.1)
    assert told["third"]["third"]["n"] == told["dense"]["n"] == 80
    without = simulated(np.random.default_rng(3), 1.5)
    assert cell_ratios(without, CELL, third=False, seed=0)["tpot_s"]["third"] is None


def test_runs_go_there_and_back_again():
    sides = [Side(role, describe(MODEL)) for role in (DENSE, PRUNED, THIRD)]  # type: ignore[arg-type]
    assert [side.role for side in order(sides)] == [DENSE, PRUNED, THIRD, THIRD, PRUNED, DENSE]


def test_trials_that_gave_no_times_are_counted():
    runs = [Trials(CELL, (), failed={"logits not finite": 3}), Trials(CELL, ())]
    assert failures(runs) == {"logits not finite": 3}


def test_raw_times_of_every_run_are_kept():
    found = simulated(np.random.default_rng(0), 1.0, rounds=1, trials=2)
    records = list(found.records())
    assert len(records) == 8
    assert [x["model"] for x in records[::2]] == [DENSE, PRUNED, PRUNED, DENSE]
    assert json.loads(json.dumps(records)) == records


# -- what can't be compared ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Artefact:
    return describe(MODEL)


def refused(first: Artefact, second: Artefact, options: LatencyOptions = OPTIONS) -> SlimGPTError:
    with pytest.raises(Unresolved) as found:
        require_comparable([Side("dense", first), Side("pruned", second)], options)
    assert found.value.exit_code == 3
    return found.value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"form": "onnx"},
            "form is checkpoint and onnx; give two checkpoints, or two ONNX exports",
        ),
        ({"tokenizer_digest": "f" * 64}, "and ffffffffffff; give a model that was made from DENSE"),
        ({"tokenizer_digest": None}, "and none; give a model that was made from DENSE"),
        ({"dtype": "quantised"}, "type of the weights is bfloat16 and quantised; give both in the"),
    ],
)
def test_models_that_differ_are_refused(model: Artefact, change: dict[str, Any], said: str) -> None:
    problem = refused(model, replace(model, name="other", **change))
    (line,) = problem.problems
    assert line.startswith("model and other can't be compared: ")
    assert said in line


def test_all_differences_are_listed_one_a_line(model: Artefact) -> None:
    words = replace(model.shape, vocab_size=5000)
    other = replace(model, tokenizer_digest="0" * 64, shape=words, dtype="quantised")
    problem = refused(model, other)
    assert [line.split(": ")[1].split(" is ")[0] for line in problem.problems] == [
        "tokenizer",
        "vocabulary",
        "type of the weights",
    ]


def test_types_that_are_converted_do_not_matter(model: Artefact) -> None:
    other = replace(model, dtype="float32")
    require_comparable([Side("dense", model), Side("pruned", other)], OPTIONS)
    exports = [replace(model, form="onnx", dtype=x) for x in ("fp32", "int8")]
    assert "fp32 and int8" in str(refused(*exports))  # type: ignore[arg-type]


def test_engines_that_run_differently_are_refused() -> None:
    first = {"dtype": "float32", "threads": 1, "version": "1"}
    with pytest.raises(Unresolved) as found:
        require_same_settings(first, first | {"threads": 2, "arena": "off"}, "p25")
    assert found.value.problems == (
        "p25 can't be compared: arena is off, and was None in the first run",
        "p25 can't be compared: threads is 2, and was 1 in the first run",
    )
    require_same_settings(first, dict(first), "p25")


def test_two_third_models_are_refused() -> None:
    with pytest.raises(UsageError, match="--third and --depth are both a third model"):
        CompareOptions(OPTIONS, third=Path("x"), by_depth=True)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(UsageError, match="--rounds 0: give 1 or more; an interval needs 3"):
        CompareOptions(OPTIONS, rounds=0)


def test_a_third_model_by_depth_has_the_nearest_size(model: Artefact) -> None:
    dense = model.shape
    for dropped in range(1, 6):
        near = dense.with_layers(dense.layers[: 6 - dropped])
        assert layers_to_drop(dense, near) == dropped
    with pytest.raises(UsageError, match="OUT is 0 decoder parameters smaller than DENSE"):
        layers_to_drop(dense, dense)
    mixed = dense.with_layers((replace(dense.layers[0], ffn=100), *dense.layers[1:]))
    with pytest.raises(UsageError, match="those of this one differ: give the third model by"):
        layers_to_drop(mixed, dense)


# -- what a comparison comes to --------------------------------------------------------------------


def document(
    verdict: str, interval: Any = (1.1, 1.3), *, valid: bool = True, output: int = 4
) -> dict[str, Any]:
    ratio = {"ratio": 1.2, "interval": list(interval) if interval else "insufficient"}
    told = {name: ratio | {"verdict": verdict} for name in ("ttft_s", "tpot_s", "e2e_s")}
    if output == 1:
        told["tpot_s"] |= {"ratio": "insufficient", "verdict": "unresolved"}
    cell = {"batch": 1, "prompt_tokens": 8, "output_tokens": output}
    return {"valid": valid, "problems": ["3 of 4 failed", "x"], "cells": [cell], **told}


@pytest.mark.parametrize("verdict", ["faster", "slower", "no difference"])
def test_a_resolved_verdict_passes(verdict: str) -> None:
    decide(document(verdict))


def test_an_unresolved_headline_ends_in_3() -> None:
    with pytest.raises(Unresolved) as found:
        decide(document("unresolved", (0.9, 1.5)))
    assert str(found.value).startswith("unresolved: ttft_s 1.200 (0.900 to 1.500), tpot_s 1.200")
    assert "give more --rounds (3 at least), more --trials" in str(found.value)


def test_a_single_token_has_no_time_per_token_to_resolve() -> None:
    decide(document("faster", output=1))
    assert expected(Cell(1, 8, 1)) == ("ttft_s", "e2e_s")


def test_failed_trials_end_in_3_with_every_problem() -> None:
    with pytest.raises(Unresolved) as found:
        decide(document("faster", valid=False), speedup=1.0)
    assert found.value.problems == ("3 of 4 failed", "x")


@pytest.mark.parametrize(
    ("verdict", "interval", "limit", "error"),
    [
        ("faster", (1.2, 1.3), 1.2, None),
        ("faster", (1.19, 1.3), 1.2, GateMissed),
        ("faster", (1.01, 1.1), 1.2, GateMissed),
        ("slower", (0.8, 0.9), 1.2, GateMissed),
        ("no difference", (0.99, 1.01), 1.2, GateMissed),
        ("unresolved", (0.9, 1.3), 1.2, Unresolved),
        ("unresolved", (0.9, 1.1), 1.2, GateMissed),
        ("unresolved", (0.97, 1.1), 0.95, None),
        ("unresolved", None, 0.5, Unresolved),
    ],
)
def test_a_required_speedup_is_held_against_the_lower_end(
    verdict: str, interval: Any, limit: float, error: type[SlimGPTError] | None
) -> None:
    told = document(verdict, interval)
    if error is None:
        decide(told, speedup=limit)
        return
    with pytest.raises(error) as found:
        decide(told, speedup=limit)
    assert str(found.value).startswith(f"--require-speedup {limit:g}: e2e_s")


@pytest.mark.parametrize("given", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speedup_that_is_no_ratio_is_refused(given: float) -> None:
    with pytest.raises(UsageError, match=r"give a ratio above 0, like 1\.2 for a fifth faster"):
        require_required(given)
    require_required(None)


def test_cells_take_turns_at_being_first() -> None:
    from slimgpt_bench.compare.experiment import _measure

    asked: list[Cell] = []

    class Recorder:
        def measure(self, cell: Cell) -> Trials:
            asked.append(cell)
            return Trials(cell, ())

    cells = tuple(Cell(b, 8, 4) for b in (1, 2, 3))
    options = replace(OPTIONS, cells=cells)
    for block in range(4):
        asked.clear()
        _measure(Recorder(), options, block)  # type: ignore[arg-type]
        assert asked[0] == cells[block % 3]
        assert set(asked) == set(cells)
