"""What is said of trials: arithmetic, warm-up, steadiness, problems. Nothing runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slimgpt.commands import bench_latency
from slimgpt.errors import UsageError
from slimgpt_bench.latency import steady
from slimgpt_bench.latency.cells import (
    Cell,
    LatencyOptions,
    make_cells,
    prompts_of,
    require_context,
    workload,
)
from slimgpt_bench.latency.document import cell_document
from slimgpt_bench.latency.job import paper, require_numbers
from slimgpt_bench.latency.measuring import agree, warm
from slimgpt_bench.latency.process import worker_environment
from slimgpt_bench.latency.trials import Times, Trials

CELL = Cell(batch=4, prompt_tokens=8, output_tokens=3)
OPTIONS = LatencyOptions("onnx", (CELL, Cell(1, 2, 1)))


def trials(*e2e_s: float, cell: Cell = CELL, **more: object) -> Trials:
    """Trials whose prefill takes half of the time."""
    places = np.linspace(0.5, 1, cell.output_tokens) if cell.output_tokens > 1 else [1.0]
    times = tuple(Times(0.4 * x, tuple(float(x * p) for p in places)) for x in e2e_s)
    return Trials(cell, times, **more)  # type: ignore[arg-type]


def noisy(level: float, count: int, seed: int) -> list[float]:
    return list(level * np.random.default_rng(seed).lognormal(0, 0.05, count))


# -- times ----------------------------------------------------------------------------------------


def test_times_are_what_their_names_say():
    times = Times(0.9, (1.0, 1.2, 1.6))
    assert (times.ttft_s, times.e2e_s) == (1.0, 1.6)
    assert times.itl_s == pytest.approx([0.2, 0.4])
    assert times.tpot_s == pytest.approx(0.3)


def test_one_token_has_no_time_per_token_and_no_gap():
    cell = Cell(1, 8, 1)
    found = cell_document(cell, [trials(1.0, 1.0, cell=cell)] * 3)
    assert found["tpot_s"] == found["itl_s"]
    assert found["tpot_s"]["median"] == found["decode_tokens_per_s"]["median"] == "insufficient"
    assert (found["ttft_s"]["median"], found["valid"]) == (1.0, True)


def test_trials_survive_the_way_between_processes():
    run = trials(1.0, 1.1, warmup_s=(1.5,), settled=False, failed={"x": 2})
    assert Trials.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_options_survive_the_way_between_processes():
    assert LatencyOptions.from_json(json.loads(json.dumps(OPTIONS.to_json()))) == OPTIONS


# -- cells and workload ---------------------------------------------------------------------------


def test_cells_are_every_combination_once():
    cells = make_cells([1, 8], [16], [4, 4, 2])
    assert cells == (Cell(1, 16, 4), Cell(1, 16, 2), Cell(8, 16, 4), Cell(8, 16, 2))


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (([0], [1], [1]), "--batch 0: give 1 or more"),
        (([1], [-3], [1]), "--prompt -3: give 1 or more"),
        (([1], [1], [0]), "--output 0: give 1 or more"),
        (([1, 2**20], [8], [9]), "--batch 1048576 --prompt 8 --output 9 comes to 17,825,792 tok"),
    ],
)
def test_a_cell_of_nothing_or_of_more_than_any_memory_is_refused(sizes, says):
    with pytest.raises(UsageError, match=says):
        make_cells(*sizes)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((0, 1, 0), "--runs 0: give 1 or more"),
        ((1, 0, 0), "--trials 0: give 1 or more"),
        ((1, 1, -1), "--warmup -1: give 0 or more"),
    ],
)
def test_measuring_nothing_is_refused(numbers, says):
    with pytest.raises(UsageError, match=says):
        require_numbers(*numbers)


def test_a_text_beyond_the_context_is_refused_with_the_limit():
    require_context(OPTIONS.cells, 11, "m")
    require_context(OPTIONS.cells, None, "m")
    with pytest.raises(UsageError, match="come to 11 tokens, and m takes 10: give less"):
        require_context(OPTIONS.cells, 10, "m")


def test_a_preset_beyond_the_context_is_refused_in_its_own_name():
    with pytest.raises(UsageError, match="--preset paper comes to 11 tokens, and m takes 10: me"):
        require_context(OPTIONS.cells, 10, "m", preset="paper")


def test_prompts_are_the_same_for_every_engine_and_others_for_every_seed():
    prompts = prompts_of(CELL, 50, seed=3)
    assert prompts == prompts_of(CELL, 50, seed=3) != prompts_of(CELL, 50, seed=4)
    assert [len(x) for x in prompts] == [8] * 4
    assert {i for row in prompts_of(Cell(10, 100, 1), 5, 0) for i in row} == set(range(5))


def test_a_workloads_digest_tells_another_workload_and_not_another_engine():
    def digest(engine: str = "onnx", vocabulary: int = 50, **changed: object) -> str:
        options = LatencyOptions(engine, **({"cells": (CELL,)} | changed))  # type: ignore[arg-type]
        return str(workload(options, vocabulary)["digest"])

    assert digest() == digest("vllm") == digest(trials=3, warmup=9)
    others = [digest(seed=1), digest(vocabulary=500), digest(cells=(Cell(4, 8, 4),))]
    assert len({digest(), *others}) == 4


def test_the_papers_preset_is_50_trials_of_512_tokens():
    options, protocol = paper(OPTIONS)
    assert options.trials * protocol.runs == 50
    assert [(x.batch, x.output_tokens) for x in options.cells] == [(1, 512)]
    assert protocol.preset == "paper"


# -- workers --------------------------------------------------------------------------------------


def test_threads_are_settled_before_a_library_is_imported():
    told = worker_environment(LatencyOptions("vllm", (CELL,), threads=3), {})
    assert (told["OMP_NUM_THREADS"], told["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "nobind")
    assert "OMP_NUM_THREADS" not in worker_environment(LatencyOptions("vllm", (CELL,)), {})


def test_one_gpu_is_chosen_for_vllm_alone():
    def seen(engine: str) -> str | None:
        options = LatencyOptions(engine, (CELL,), device="cuda:1")
        environ = {"CUDA_VISIBLE_DEVICES": "4,5"}
        return worker_environment(options, environ).get("CUDA_VISIBLE_DEVICES")

    assert (seen("vllm"), seen("transformers")) == ("5", "4,5")


# -- warm-up and steadiness -----------------------------------------------------------------------


def test_warmup_goes_on_until_times_agree_within_its_bounds():
    assert warm([], 0)
    assert not warm([1.0, 1.0], 3)
    assert warm([9.0, 1.0, 1.05, 1.0], 3)
    assert not warm([9.0, 5.0, 1.0, 1.0], 3)
    assert warm([9.0, 1.0] * 5, 3)  # three times the floor is the cap
    assert agree([])
    # One trial agrees with nothing, so the least warm-up is of two.
    assert not warm([1.0], 1)
    assert warm([1.0, 1.05], 1)
    assert not warm([1.0, 1.5], 1)
    assert warm([1.0, 1.5, 1.0], 1)


def test_a_level_that_holds_is_steady_whatever_the_noise():
    wrong = 0
    for seed in range(200):
        runs = [trials(*noisy(1.0, 10, 1000 * seed + i)) for i in range(6)]
        wrong += bool(steady.steadiness(runs).problems())
    assert wrong == 0  # noise of 5 % moves no median by 5 %


def test_a_drift_within_runs_is_found():
    drifting = [1 + 0.03 * i for i in range(10)]
    runs = [trials(*(np.array(drifting) * noisy(1, 10, i))) for i in range(6)]
    found = steady.steadiness(runs)
    assert found.within.change == pytest.approx(0.27, abs=0.07)
    [problem] = found.problems()
    assert "over the trials of a run" in problem
    assert "give more --warmup" in problem


def test_a_drift_between_runs_is_found():
    runs = [trials(*noisy(1 + 0.1 * i, 10, i)) for i in range(6)]
    [problem] = steady.steadiness(runs).problems()
    assert "from the first run to the last" in problem


def test_a_small_drift_that_is_certain_is_told_and_no_problem():
    runs = [trials(*(1 + 0.005 * np.arange(10))) for _ in range(6)]
    found = steady.steadiness(runs)
    assert found.within.interval is not None
    assert found.within.interval[0] > 0
    assert not found.problems()
    assert found.to_json()["steady"] is True


def test_a_line_is_of_ratios_and_never_below_nothing():
    found = steady.line([8.0, 4.0, 2.0, 1.0])
    assert found.change == pytest.approx(1 / 8 - 1)
    assert steady.line([100.0, 1.0, 1.0, 1.0]).change > -1


def test_too_few_trials_tell_no_trend():
    told = steady.steadiness([trials(1.0, 2.0)]).to_json()
    assert told["within_runs"] == {"change": "insufficient", "interval": "insufficient"}


# -- documents ------------------------------------------------------------------------------------


def test_quantities_are_medians_over_runs_with_intervals():
    runs = [trials(*noisy(2.0, 10, i)) for i in range(6)]
    found = cell_document(CELL, runs)
    for name, part in (("prefill_s", 0.4), ("ttft_s", 0.5), ("tpot_s", 0.25), ("e2e_s", 1.0)):
        low, high = found[name]["interval"]
        assert low < found[name]["median"] < high
        assert found[name]["median"] == pytest.approx(2 * part, rel=0.05)
        assert found[name]["p95_interval"][1] >= found[name]["p95"]
        assert found[name]["p99"] == "insufficient"  # 60 trials
    assert found["itl_s"]["n"] == 120
    assert found["itl_s"]["p99"] == "insufficient"  # two gaps of one trial are one sample
    assert found["decode_tokens_per_s"]["median"] == pytest.approx(4 / 0.5, rel=0.05)
    assert found["goodput_rps"] == pytest.approx(4 / 2, rel=0.05)
    assert (found["valid"], found["problems"]) == (True, [])


def test_failures_stay_in_the_denominator():
    runs = [trials(1.0, 1.0, failed={"no times": 1}) for _ in range(3)]
    found = cell_document(CELL, runs)
    assert found["requests"] == {"sent": 36, "ok": 24, "failed": {"no times": 12}}
    assert not found["valid"]
    assert "12 of 36 failed" in found["problems"][0]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_runs_for_an_interval_are_a_problem(count):
    found = cell_document(CELL, [trials(1.0, 1.0, 1.0)] * count)
    assert found["e2e_s"]["interval"] == "insufficient"
    assert (
        f"an interval needs 3 runs, and {count} gave times: give --runs 3" in found["problems"][0]
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.01234, "0.0123"), (12.34, "12.3"), (999.4, "999"), (999.6, "1,000"), (12345.6, "12,346")],
)
def test_a_number_is_written_in_digits(value, shown):
    assert bench_latency._number(value) == shown


def test_every_problem_names_its_cell():
    found = cell_document(CELL, [trials(1.0)])
    assert all(x.startswith("--batch 4 --prompt 8 --output 3: ") for x in found["problems"])


def test_no_module_of_latency_but_the_engines_imports_torch():
    folder = Path(steady.__file__).parent
    for path in folder.glob("*.py"):
        lines = path.read_text().splitlines()
        heavy = any(x.startswith(("import torch", "import transformers")) for x in lines)
        assert heavy == (path.name in ("transformers_engine.py", "torch_memory.py")), path
