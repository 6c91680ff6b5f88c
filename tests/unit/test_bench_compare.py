"""Ratios recover what was put in, and equal models are no different."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slimgpt.demo import MODEL
from slimgpt_bench.artefact import describe
from slimgpt_bench.compare.experiment import Experiment, Run, device_of, order
from slimgpt_bench.compare.ratios import cell_ratios, failures, ratio_of
from slimgpt_bench.compare.sides import (
    DENSE,
    PRUNED,
    THIRD,
    Side,
)
from slimgpt_bench.latency import Cell, LatencyOptions, Times, Trials

CELL = Cell(1, 8, 4)
OPTIONS = LatencyOptions("transformers", (CELL,), device="cpu")


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


@pytest.mark.parametrize(
    ("asked", "told", "device"),
    [
        ("auto", "cuda:0", "cuda:0"),
        ("auto", "cpu", "cpu"),
        ("cpu", "cpu", "cpu"),
        ("cuda:1", "cuda:1", "cuda:1"),
        ("cuda:1", "cuda", "cuda:1"),
    ],
)
def test_the_device_is_told_by_its_number_on_this_machine(
    asked: str, told: str, device: str
) -> None:
    options = LatencyOptions("vllm", (CELL,), device=asked)
    assert device_of(options, {"device": told}) == device


def test_trials_that_gave_no_times_are_counted():
    runs = [Trials(CELL, (), failed={"logits not finite": 3}), Trials(CELL, ())]
    assert failures(runs) == {"logits not finite": 3}


def test_raw_times_of_every_run_are_kept():
    found = simulated(np.random.default_rng(0), 1.0, rounds=1, trials=2)
    records = list(found.records())
    assert len(records) == 8
    assert [x["model"] for x in records[::2]] == [DENSE, PRUNED, PRUNED, DENSE]
    assert json.loads(json.dumps(records)) == records


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
