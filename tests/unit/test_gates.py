"""A gate passes if its value was measured, is finite and is within the limit, and never else."""

from __future__ import annotations

from math import inf, isfinite, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgpt.errors import GateMissed
from slimgpt.release.gates import GateResult, evaluate_gates, render, require_all
from slimgpt.release.recipe.sections import Evaluate, Gates
from slimgpt.shape import LayerShape, ModelShape

DENSE = ModelShape(64, 16, 256, (LayerShape(4, 4, 128),) * 2)
PRUNED = DENSE.with_layers((LayerShape(3, 3, 96),) * 2)
ANY_NUMBER = st.floats(allow_nan=True, allow_infinity=True)
NO_NUMBER: tuple[Any, ...] = (None, nan, inf, -inf, "0.1", True, [], {}, 10**400)
ABSENT = "absent"


def text(**changes: Any) -> dict[str, Any]:
    measured = {"perplexity": 11.0, "baseline_perplexity": 10.0, "kl": 0.05}
    return {"text": "test.txt", "file": "w/test.txt", "window": 128, "protocol": "paper"} | {
        key: value for key, value in (measured | changes).items() if value is not ABSENT
    }


def tasks(**changes: Any) -> dict[str, Any]:
    accuracy = {"ratio": 0.97, "lower": 0.95, "confidence": 0.95, "tasks": 2, "n": 5108} | changes
    scored = {"acc": 0.5, "baseline": {"acc": 0.52}}
    kept = {key: value for key, value in accuracy.items() if value is not ABSENT}
    return {"tasks": {"boolq": scored, "piqa": scored}, "accuracy": kept}


def results(gates: dict[str, Any], judgement: dict[str, Any], **more: Any) -> list[GateResult]:
    return evaluate_gates(Gates.model_validate(gates), judgement, DENSE, PRUNED, 2, **more)


def one(gates: dict[str, Any], judgement: dict[str, Any]) -> GateResult:
    (result,) = results(gates, judgement)
    return result


LIMITED = {
    "perplexity_increase": lambda limit: one(
        {"perplexity_increase": limit}, {"texts": [text(perplexity=11.5)]}
    ),
    "kl": lambda limit: one({"kl": limit}, {"texts": [text(kl=0.15)]}),
    "weight_bytes": lambda limit: one({"weight_bytes": limit or 1e-9}, {}),
    "kv_bytes": lambda limit: one({"kv_bytes": limit or 1e-9}, {}),
}


# -- the rule --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(ANY_NUMBER, st.floats(0, 1e300))
def test_kl_passes_exactly_if_finite_and_within_the_limit(kl: float, limit: float) -> None:
    result = one({"kl": limit}, {"texts": [text(kl=kl)]})
    assert result.passed == (isfinite(kl) and kl <= limit)
    assert (result.measured is None) == (not isfinite(kl))
    if result.margin is not None:
        assert result.passed == (result.margin >= 0)


@settings(deadline=None)
@given(ANY_NUMBER, ANY_NUMBER, st.floats(0, 1e300))
def test_the_increase_passes_exactly_if_finite_and_within_the_limit(
    after: float, before: float, limit: float
) -> None:
    measured = text(perplexity=after, baseline_perplexity=before)
    result = one({"perplexity_increase": limit}, {"texts": [measured]})
    possible = all(isfinite(x) and x > 0 for x in (after, before)) and isfinite(after / before)
    assert result.passed == (possible and after / before - 1 <= limit)


@settings(deadline=None)
@given(ANY_NUMBER, st.floats(0, 1, exclude_min=True))
def test_accuracy_passes_exactly_if_its_lower_bound_is_finite_and_not_below_the_limit(
    lower: float, limit: float
) -> None:
    result = one({"accuracy": {"ratio": limit, "confidence": 0.95}}, tasks(lower=lower))
    assert result.passed == (isfinite(lower) and lower >= limit)


@pytest.mark.parametrize("measure", LIMITED.values(), ids=LIMITED)
@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_looser_limit_never_fails_what_a_tighter_one_passes(measure, one_limit, other) -> None:
    tight, loose = sorted((one_limit, other))
    assert measure(loose).passed >= measure(tight).passed


@settings(deadline=None)
@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10))
def test_a_better_value_never_fails_where_a_worse_one_passes(
    limit: float, one_kl: float, other: float
) -> None:
    better, worse = sorted((one_kl, other))
    passed = [one({"kl": limit}, {"texts": [text(kl=kl)]}).passed for kl in (better, worse)]
    assert passed[0] >= passed[1]


# -- what is not there -----------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [*NO_NUMBER, ABSENT], ids=repr)
@pytest.mark.parametrize(
    ("gate", "key"),
    [
        ("perplexity_increase", "perplexity"),
        ("perplexity_increase", "baseline_perplexity"),
        ("kl", "kl"),
    ],
)
def test_a_text_without_its_number_fails(gate: str, key: str, missing: Any) -> None:
    result = one({gate: 1e9}, {"texts": [text(**{key: missing})]})
    assert (result.passed, result.measured, result.margin) == (False, None, None)
    unknown = missing is None or missing is ABSENT
    assert result.why.endswith("was not measured" if unknown else "is no finite number")


@pytest.mark.parametrize("missing", [*NO_NUMBER, ABSENT], ids=repr)
@pytest.mark.parametrize("key", ["ratio", "lower", "confidence", "tasks", "n"])
def test_an_accuracy_without_its_numbers_fails(key: str, missing: Any) -> None:
    result = one({"accuracy": {"ratio": 0.01}}, tasks(**{key: missing}))
    assert (result.passed, result.measured) == (False, None)


@pytest.mark.parametrize(
    ("judgement", "why"),
    [
        ({}, "task accuracy was not measured on both models"),
        ({"accuracy": None}, "task accuracy was not measured on both models"),
        (tasks(confidence=0.9), "another confidence, 0.9: the gate is for 0.95"),
        (tasks(n=0), "measured on 2 tasks with 0 questions"),
        (tasks(lower=None, why="too few examples: 3"), "too few examples: 3"),
        (tasks() | {"tasks": {"piqa": None}}, "piqa has no scores"),
        (tasks() | {"tasks": {"piqa": {"acc": None}}}, "the accuracy of piqa was not measured"),
        (
            tasks() | {"tasks": {"piqa": {"acc": 0.5, "baseline": {"acc": nan}}}},
            "the dense model's accuracy of piqa is no finite number",
        ),
        (
            tasks() | {"tasks": {"piqa": {"acc": 0.5}}},
            "the dense model's accuracy of piqa was not measured",
        ),
    ],
)
def test_what_keeps_an_accuracy_from_counting(judgement: dict[str, Any], why: str) -> None:
    result = one({"accuracy": {"ratio": 0.01}}, judgement)
    assert not result.passed
    assert why in result.why


def test_tasks_without_multiple_choice_are_outside_the_mean():
    judgement = tasks()
    judgement["tasks"]["longbench_qasper"] = {"metrics": {"f1": {"value": 0.2, "stderr": 0.01}}}
    assert one({"accuracy": {"ratio": 0.95}}, judgement).passed


@pytest.mark.parametrize("texts", [[], None, ABSENT])
def test_without_any_text_its_gates_fail(texts: Any) -> None:
    judgement = {} if texts is ABSENT else {"texts": texts}
    found = results({"kl": 1, "perplexity_increase": 1}, judgement)
    assert [(r.passed, r.why) for r in found] == [(False, "no text was measured")] * 2


def test_a_text_that_the_recipe_demands_and_nobody_measured_fails():
    demanded = Evaluate.model_validate(
        {"texts": [{"file": "w/test.txt"}, {"file": "test.txt", "window": 256}, {"file": "b.txt"}]}
    )
    found = results({"kl": 1}, {"texts": [text()]}, demanded=demanded)
    assert {r.name: r.passed for r in found} == {
        "kl[test.txt@128]": True,
        "kl[test.txt@256]": False,
        "kl[b.txt@128]": False,
    }


@pytest.mark.parametrize("perplexity", [0, -1])
def test_a_perplexity_that_can_not_be_fails(perplexity: float) -> None:
    result = one({"perplexity_increase": 1}, {"texts": [text(perplexity=perplexity)]})
    assert result.why == f"a perplexity of {perplexity} of the result can't be"


def test_a_dense_model_without_a_cache_has_no_ratio():
    bare = DENSE.with_layers((LayerShape(0, 0, 128),))
    (result,) = evaluate_gates(Gates(kv_bytes=1), {}, bare, bare, 2)
    assert (result.passed, result.measured) == (False, None)
    assert result.why == "the dense model has no bytes of KV cache a token"


# -- values, names and words -----------------------------------------------------------------------


def test_values_and_margins_are_in_the_unit_of_the_gate():
    gates = {
        "perplexity_increase": 0.15,
        "kl": 0.04,
        "accuracy": {"ratio": 0.9},
        "weight_bytes": 0.9,
        "kv_bytes": 0.5,
    }
    found = {r.name.partition("[")[0]: r for r in results(gates, {"texts": [text()]} | tasks())}
    expected = {
        "perplexity_increase": (0.1, 0.05, "fraction"),
        "kl": (0.05, -0.01, "nats/token"),
        "accuracy": (0.95, 0.05, "fraction"),
        "weight_bytes": (
            PRUNED.parameters / DENSE.parameters,
            0.9 - PRUNED.parameters / DENSE.parameters,
            "fraction",
        ),
        "kv_bytes": (0.75, -0.25, "fraction"),
    }
    assert list(found) == list(expected)
    for name, (measured, margin, unit) in expected.items():
        assert found[name].measured == pytest.approx(measured)
        assert found[name].margin == pytest.approx(margin)
        assert found[name].unit == unit


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        ([text(), text(window=256)], ["test.txt@128", "test.txt@256"]),
        ([text(), text(protocol="raw")], ["test.txt@128,paper", "test.txt@128,raw"]),
        ([text(), text(file="x/test.txt")], ["w/test.txt@128,paper", "x/test.txt@128,paper"]),
        ([{"kl": 0.1}], ["?@?"]),
        ([text(), text()], ["w/test.txt@128,paper#1", "w/test.txt@128,paper#2"]),
    ],
)
def test_every_text_has_a_name_of_its_own(texts: list[dict[str, Any]], names: list[str]) -> None:
    assert [r.name for r in results({"kl": 1}, {"texts": texts})] == [f"kl[{n}]" for n in names]


def test_a_gate_that_is_not_in_the_recipe_is_not_looked_at():
    assert [r.name for r in results({"kv_bytes": 0.8}, {"texts": [text(kl=nan)]})] == ["kv_bytes"]


def test_lines_name_measured_limit_and_margin():
    gates = {"kl": 0.04, "accuracy": {"ratio": 0.9}, "kv_bytes": 0.8}
    assert render(results(gates, {"texts": [text()]} | tasks())) == [
        "MISSED kl[test.txt@128]: measured 0.05 nats/token, limit at most 0.04, margin -0.01 "
        "(KL(dense || pruned))",
        "passed accuracy: measured 0.95, limit at least 0.9, margin +0.05 (0.97 of the dense "
        "model's mean accuracy, at least 0.95 with confidence 0.95; 2 tasks, n = 5,108)",
        "passed kv_bytes: measured 0.75, limit at most 0.8, margin +0.05 (512 bytes of KV cache a "
        "token became 384)",
    ]
    assert render(results({"kl": 0.1}, {})) == [
        "MISSED kl: not measured, limit at most 0.1: no text was measured"
    ]


def test_a_miss_by_little_does_not_look_like_the_limit():
    (line,) = render(results({"kl": 0.1}, {"texts": [text(kl=0.10000004)]}))
    assert line.startswith("MISSED kl[test.txt@128]: measured 0.10000004 nats/token, limit at most")
    (line,) = render(results({"kl": 0.1}, {"texts": [text(kl=0.1)]}))
    assert line.startswith("passed kl[test.txt@128]: measured 0.1 nats/token")


def test_a_missed_gate_is_named_in_the_error_and_ends_in_1():
    found = results({"kl": 0.04, "kv_bytes": 0.8, "weight_bytes": 0.1}, {"texts": [text()]})
    with pytest.raises(GateMissed) as missed:
        require_all(found)
    assert missed.value.exit_code == 1
    message = str(missed.value)
    assert message.startswith("2 of 3 gates missed: kl[test.txt@128]: measured 0.05 nats/token, ")
    assert "; weight_bytes: measured 0.8" in message
    assert "kv_bytes" not in message


def test_met_gates_raise_nothing():
    require_all(results({"kl": 0.06, "kv_bytes": 0.8}, {"texts": [text()]}))
    require_all([])
