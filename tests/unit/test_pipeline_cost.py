"""Costs of a pipeline follow its work, and a machine that can't carry it is told so in a line."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from slimgpt.machine_speed import MachineSpeed, measure_speed
from slimgpt.pass_cost import forward_flops, training_s, update_values
from slimgpt.pipeline_cost import (
    Calibrating,
    Computing,
    Judging,
    StageCost,
    Training,
    evaluate_cost,
    machine_check,
    prune_cost,
    recover_cost,
)
from slimgpt.planning import make_plan
from slimgpt.resources import available_memory_bytes
from slimgpt.shape import LayerShape, ModelShape

DENSE = ModelShape(128, 16, 4096, (LayerShape(8, 8, 352),) * 6)
PLAN = make_plan(DENSE, 0.25)
SLOW = Computing(MachineSpeed("cpu", 1e9, 1e9), stored_bytes=2, value_bytes=4)
FAST = replace(SLOW, machine=MachineSpeed("cpu", 2e9, 2e9))
TRAINING = Training(examples=1000, held_out=100, tokens=200)
JUDGING = Judging(text_tokens=12_800, requests=500, request_tokens=100)
CALIBRATING = Calibrating(64, 256)


def amounts(cost: StageCost) -> tuple[float, int, int]:
    return cost.seconds, cost.memory_bytes, cost.disk_bytes


def both(computing: Computing) -> list[StageCost]:
    """What is computed on the device that was asked for."""
    return [recover_cost(PLAN, TRAINING, computing), evaluate_cost(PLAN, JUDGING, computing)]


STEPS = replace(TRAINING, max_steps=10)
MORE_TO_TRAIN = {
    "examples": (TRAINING, replace(TRAINING, examples=2000)),
    "held out": (TRAINING, replace(TRAINING, held_out=200)),
    "tokens": (TRAINING, replace(TRAINING, tokens=250)),
    "longest": (TRAINING, replace(TRAINING, longest=512)),
    "rank": (TRAINING, replace(TRAINING, rank=16)),
    "micro-batch": (TRAINING, replace(TRAINING, micro_batch=32)),
    "epochs": (TRAINING, replace(TRAINING, epochs=2.0)),
    "evaluations": (TRAINING, replace(TRAINING, evaluations=20)),
    "distillation": (TRAINING, replace(TRAINING, distills=True)),
    "steps": (STEPS, replace(STEPS, max_steps=20)),
    "batch": (STEPS, replace(STEPS, batch_size=128)),
}
MORE_TO_JUDGE = {
    "text": replace(JUDGING, text_tokens=25_600),
    "window": replace(JUDGING, window=2560),
    "requests": replace(JUDGING, requests=1000),
    "tokens": replace(JUDGING, request_tokens=200),
    "batch": replace(JUDGING, batch_size=64),
}


@pytest.mark.parametrize(("less", "more"), MORE_TO_TRAIN.values(), ids=MORE_TO_TRAIN)
def test_more_to_train_costs_more_and_nothing_less(less: Training, more: Training) -> None:
    before, after = (amounts(recover_cost(PLAN, work, SLOW)) for work in (less, more))
    assert after != before
    assert all(b >= a for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("more", MORE_TO_JUDGE.values(), ids=MORE_TO_JUDGE)
def test_more_to_judge_costs_more_and_nothing_less(more: Judging) -> None:
    before, after = (amounts(evaluate_cost(PLAN, work, SLOW)) for work in (JUDGING, more))
    assert after != before
    assert all(b >= a for a, b in zip(before, after, strict=True))


def test_more_calibration_costs_more() -> None:
    less = prune_cost(PLAN, CALIBRATING, SLOW)
    for more in (Calibrating(128, 256), Calibrating(64, 512)):
        cost = prune_cost(PLAN, more, SLOW)
        assert cost.seconds > less.seconds
        assert cost.memory_bytes > less.memory_bytes
        assert cost.disk_bytes == less.disk_bytes


def test_hidden_states_lie_in_memory_or_on_the_disk() -> None:
    held = prune_cost(PLAN, CALIBRATING, SLOW)
    filed = prune_cost(PLAN, replace(CALIBRATING, on_disk=True), SLOW)
    states = 64 * 256 * 128 * 4
    assert held.memory_bytes - filed.memory_bytes == states
    assert filed.disk_bytes - held.disk_bytes == states


def test_no_work_takes_no_time() -> None:
    assert recover_cost(PLAN, Training(0, 0, 200), SLOW).seconds == 0
    assert recover_cost(PLAN, Training(10, 10, 0), SLOW).seconds == 0
    nothing = evaluate_cost(PLAN, Judging(), SLOW)
    assert (nothing.seconds, nothing.memory_bytes) == (0, 0)


def test_a_machine_twice_as_fast_takes_half_the_time_and_the_same_room() -> None:
    for slow, fast in zip(both(SLOW), both(FAST), strict=True):
        assert fast.seconds == pytest.approx(slow.seconds / 2)
        assert amounts(fast)[1:] == amounts(slow)[1:]
    slow, fast = (prune_cost(PLAN, CALIBRATING, c) for c in (SLOW, FAST))
    assert fast.seconds == pytest.approx(slow.seconds / 2)


def test_computing_activations_twice_trades_memory_for_time() -> None:
    once = recover_cost(PLAN, TRAINING, SLOW)
    twice = recover_cost(PLAN, replace(TRAINING, gradient_checkpointing=True), SLOW)
    assert twice.memory_bytes < once.memory_bytes
    assert once.seconds < twice.seconds < 1.5 * once.seconds


def test_training_is_two_passes_and_three_of_the_updates() -> None:
    machine = MachineSpeed("cpu", 1.0, inf)  # a FLOP a second, and moving costs nothing
    updates = 6 * update_values(DENSE, 8) * 100
    took = training_s(DENSE, 100, 8, machine, recomputes=False)
    assert took == 2 * forward_flops(DENSE, 100) + updates


def test_every_position_goes_through_the_head() -> None:
    head = 2 * 4096 * 128
    assert forward_flops(DENSE, 1) == DENSE.prefill_flops(1)
    assert forward_flops(DENSE, 10) == DENSE.prefill_flops(10) + 9 * head


def test_bytes_are_bytes() -> None:
    target = PLAN.target.parameters
    assert prune_cost(PLAN, CALIBRATING, SLOW).disk_bytes == 2 * 2 * target
    wide, narrow = (
        recover_cost(PLAN, TRAINING, replace(SLOW, value_bytes=n)).memory_bytes for n in (4, 2)
    )
    assert wide - narrow == 2 * target
    one, two = (recover_cost(PLAN, replace(TRAINING, rank=r), SLOW) for r in (8, 16))
    updates = update_values(PLAN.target, 8)
    assert two.memory_bytes - one.memory_bytes == 16 * updates  # itself, gradient, two moments
    assert two.disk_bytes - one.disk_bytes == 40 * updates  # three checkpoints of 12, best of 4


def test_distilling_holds_the_dense_model_too() -> None:
    alone = recover_cost(PLAN, TRAINING, SLOW)
    taught = recover_cost(PLAN, replace(TRAINING, distills=True), SLOW)
    assert taught.memory_bytes - alone.memory_bytes > DENSE.weight_bytes(4)
    assert "taught by the dense model" in taught.basis


def test_texts_need_both_models_at_once_and_tasks_one() -> None:
    tasks = Judging(requests=1, request_tokens=128)
    both = Judging(text_tokens=128, window=128)
    extra = evaluate_cost(PLAN, both, SLOW).memory_bytes
    extra -= evaluate_cost(PLAN, tasks, SLOW).memory_bytes
    assert extra == PLAN.target.weight_bytes(4)


def test_a_gpu_holds_no_python() -> None:
    gpu = replace(SLOW, machine=MachineSpeed("cuda:0", 1e9, 1e9))
    for there, here in zip(both(gpu), both(SLOW), strict=True):
        assert there.memory_bytes <= here.memory_bytes - 600 * 2**20


# -- the machine --------------------------------------------------------------------------------


def test_a_machine_that_can_carry_the_job_is_told_nothing(tmp_path: Path) -> None:
    costs = [prune_cost(PLAN, CALIBRATING, SLOW), evaluate_cost(PLAN, JUDGING, SLOW)]
    assert machine_check(costs, tmp_path / "not" / "yet") == []
    assert machine_check([], tmp_path) == []


@pytest.mark.skipif(available_memory_bytes() is None, reason="the system does not say")
@pytest.mark.parametrize(
    ("stage", "helps"),
    [
        ("prune", "prune.samples or prune.sequence_length"),
        ("recover", "recover.micro_batch or recover.max_length, or set recover.gradient_check"),
        ("evaluate", "evaluate.batch_size"),
    ],
)
def test_missing_memory_is_said_with_what_helps(tmp_path: Path, stage: str, helps: str) -> None:
    (line,) = machine_check([StageCost(stage, 1.0, 2**60, 0, "")], tmp_path)
    assert line.startswith(f"{stage} needs about 1048576.0 TiB of memory, where ")
    assert helps in line
    assert "\n" not in line


def test_missing_disk_is_said_once_for_the_stage_that_needs_most(tmp_path: Path) -> None:
    costs = [StageCost("prune", 1.0, 0, 2**58, ""), StageCost("recover", 1.0, 0, 2**60, "")]
    (line,) = machine_check(costs, tmp_path / "out")
    assert f"about 1048576.0 TiB of disk at {tmp_path}, where " in line
    assert "give an OUT on another disk" in line


def test_speeds_are_those_of_a_machine() -> None:
    speed = measure_speed("cpu")
    assert not speed.is_gpu
    assert 1e8 < speed.flops_per_s < 1e15
    assert 1e8 < speed.bytes_per_s < 1e14


def test_an_estimate_needs_no_torch() -> None:
    code = """
import sys
from pathlib import Path
from slimgpt.machine_speed import measure_speed
from slimgpt.pipeline_cost import machine_check
measure_speed("cpu")
machine_check([], Path())
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
