"""A speed gate counts the lower end of a measured interval, and leaves no time in a release."""

from __future__ import annotations

from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgpt.compress.speed import speed_cost
from slimgpt.machine_speed import MachineSpeed
from slimgpt.pipeline_cost import Computing
from slimgpt.prune.options import PruneOptions
from slimgpt.release.gates import NO_TIMES, GateResult, evaluate_gates, render
from slimgpt.release.junit import junit_xml
from slimgpt.release.recipe.sections import Gates, SpeedGate
from slimgpt.release.verify.gate_checks import check_gates
from slimgpt.release.verify.schema import parse_manifest
from slimgpt.shape import LayerShape, ModelShape
from tests.recipes import PRUNE, problems

DENSE = ModelShape(64, 16, 256, (LayerShape(4, 4, 128),) * 2)
PRUNED = DENSE.with_layers((LayerShape(3, 3, 96),) * 2)
GATE = SpeedGate(at_least=1.2)
SETTINGS = GATE.model_dump(mode="json")


def measured(low: Any = 1.25, high: Any = 1.35, **changes: Any) -> dict[str, Any]:
    told = {"gate": SETTINGS, "ratio": 1.3, "interval": [low, high], "verdict": "faster"}
    return told | changes


def result(speed: dict[str, Any] | None) -> GateResult:
    (found,) = evaluate_gates(Gates(speedup=GATE), {}, DENSE, PRUNED, 2, speed=speed)
    return found


@settings(deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_it_is_met_exactly_if_the_lower_end_is_finite_and_not_below_the_limit(low: float) -> None:
    found = result(measured(low))
    assert found.passed == (isfinite(low) and low >= 1.2)
    assert (found.measured is None) == (not isfinite(low))


@pytest.mark.parametrize(
    ("speed", "why"),
    [
        (None, "the speed of both models was not measured"),
        (measured(why="threads is 2, and was 1"), "threads is 2, and was 1"),
        (measured(interval=None), "the ratio has no interval: too few rounds"),
        (measured(interval=[1.3]), "the ratio has no interval: too few rounds"),
        (measured(ratio=None), "the ratio of times was not measured"),
        (measured(nan), "the interval of the ratio is no finite number"),
        (measured(1.3, inf), "the interval of the ratio is no finite number"),
        (measured("1.3"), "the interval of the ratio is no finite number"),
        (measured(gate=SETTINGS | {"rounds": 3}), "measured with other settings than the gate has"),
    ],
)
def test_what_was_not_measured_fails(speed: dict[str, Any] | None, why: str) -> None:
    found = result(speed)
    assert (found.passed, found.measured) == (False, None)
    assert why in found.why


def test_a_line_tells_the_lower_end_and_how_it_was_measured():
    (line,) = render([result(measured())])
    assert line == (
        "passed speedup: measured 1.25 times, limit at least 1.2, margin +0.05 (tpot_s 1.3 times "
        "as fast as the dense model, 1.25 to 1.35 with confidence 0.95; transformers, batch 1, "
        "prompt 128, output 64, 4 rounds)"
    )
    assert 'name="speedup"' in junit_xml([result(measured(1.1))], suite="x")
    assert 'type="missed"' in junit_xml([result(measured(1.1))], suite="x")
    assert 'type="unmeasured"' in junit_xml([result(None)], suite="x")


def test_a_limit_within_the_interval_is_missed_with_a_way_out():
    (line,) = render([result(measured(1.1, 1.35))])
    assert line.startswith("MISSED speedup: measured 1.1 times, limit at least 1.2, margin -0.1")
    assert line.endswith("4 rounds; the limit lies between: more rounds tell)")
    (line,) = render([result(measured(1.1, 1.15))])
    assert line.endswith("4 rounds)")


def test_a_release_is_told_the_verdict_and_the_limit_but_no_time():
    first, second = (result(measured(low)).without_times() for low in (1.25, 1.3))
    assert first == second
    assert (first.passed, first.limit, first.measured, first.margin) == (True, 1.2, None, None)
    assert first.why == NO_TIMES
    (size,) = evaluate_gates(Gates(weight_bytes=1), {}, DENSE, PRUNED, 2)
    assert size.without_times() is size


# -- verify ----------------------------------------------------------------------------------------


def checked(gates: list[dict[str, Any]], asked: dict[str, Any]) -> tuple[str, str]:
    document = {
        "schema": 1,
        "slimgpt_version": "0",
        "source": {"name": "x", "digest": "0" * 64},
        "recipe": {"gates": asked},
        "shape": PRUNED.to_manifest(),
        "parameters": {"before": 9, "after": 8, "decoder_before": 7, "decoder_after": 6},
        "quality": {},
        "gates": gates,
        "environment": {},
        "files": {"x": "0" * 64},
    }
    (check,) = check_gates(parse_manifest(document, "x"), PRUNED, None)
    return check.status, check.detail


def recorded(**changes: Any) -> dict[str, Any]:
    told = {"name": "speedup", "measured": None, "limit": 1.2, "margin": None}
    return told | {"passed": True, "unit": "times", "why": NO_TIMES} | changes


def test_verify_takes_a_speed_gate_without_a_number_and_says_so():
    status, detail = checked([recorded()], {"speedup": SETTINGS})
    assert status == "passed"
    assert "speedup is not checked, its times are in the report of the run" in detail


@pytest.mark.parametrize(
    ("gate", "asked", "says"),
    [
        (recorded(measured=1.3), SETTINGS, "a release of slimgpt has no times"),
        (recorded(margin=0.1), SETTINGS, "a release of slimgpt has no times"),
        (recorded(limit=1.1), SETTINGS, "not those of the recipe, or not its limits"),
        (recorded(), SETTINGS | {"at_least": 2.0}, "not those of the recipe, or not its limits"),
    ],
)
def test_verify_refuses_a_speed_gate_that_can_not_be_ours(
    gate: dict[str, Any], asked: dict[str, Any], says: str
) -> None:
    status, detail = checked([gate], {"speedup": asked})
    assert status == "failed"
    assert says in detail


# -- the recipe ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{at_least: 0}", "gates.speedup.at_least 0: give a number, above 0"),
        ("{at_least: .nan}", "gates.speedup.at_least"),
        ("{}", "gates.speedup.at_least is missing: give a number"),
        ("{at_least: 1.2, rounds: 2}", "gates.speedup.rounds 2: give a whole number, at least 3"),
        ("{at_least: 1.2, quantity: speed}", "give tpot_s, ttft_s, prefill_s or e2e_s"),
        ("{at_least: 1.2, engine: onnx}", "give transformers or vllm"),
        ("{at_least: 1.2, output: 1}", "a single token has no time per output token"),
        ("1.2", "gates.speedup 1.2: give a section with at_least"),
    ],
)
def test_a_gate_that_can_not_be_is_refused_by_its_key(
    tmp_path: Path, given: str, says: str
) -> None:
    (line,) = problems(tmp_path, f"{PRUNE}gates: {{speedup: {given}}}\n")
    assert says in line


def test_the_estimate_grows_with_rounds_and_answers():
    plan = PruneOptions(0.25).plan(DENSE)
    computing = Computing(MachineSpeed("cpu", 1e9, 1e9), 2, 4)
    costs = [
        speed_cost(plan, SpeedGate(at_least=1.2, rounds=rounds, output=output), computing).seconds
        for rounds, output in ((3, 64), (6, 64), (6, 128))
    ]
    assert costs[1] == pytest.approx(2 * costs[0])
    assert costs[2] > costs[1]
    assert "12 processes" in speed_cost(plan, SpeedGate(at_least=1.2, rounds=3), computing).basis
