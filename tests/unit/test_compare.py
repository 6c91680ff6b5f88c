"""Claims are held to what was measured: near is the same, further is a lie, silence is neither."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from slimgpt.errors import EnvironmentProblem, IntegrityError, Unresolved
from slimgpt.release.verify.checks import Check, attempt
from slimgpt.release.verify.compare import (
    compare_accuracy,
    compare_task,
    compare_text,
)
from slimgpt.release.verify.gate_checks import check_gates
from slimgpt.release.verify.schema import (
    AccuracyClaim,
    Manifest,
    TaskClaim,
    TextClaim,
    parse_manifest,
)
from slimgpt.release.verify.verify import Verification
from slimgpt.shape import ModelShape
from tests.release_facts import QUALITY, TASK, TEXT, deep

METRICS = {"metrics": {"qa_f1": {"value": 21.5, "stderr": None}}, "n": 500}


def text(**changes: Any) -> TextClaim:
    return TextClaim.model_validate(TEXT | changes)


def task(**changes: Any) -> TaskClaim:
    return TaskClaim.model_validate(TASK | changes)


def failing(checks: Any) -> set[str]:
    return {
        check.check.split(" (")[0].split(",")[0] for check in checks if check.status == "failed"
    }


TEXTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "the same": ({}, set()),
    "perplexity within half a per cent": ({"perplexity": 15.5 * 1.0049}, set()),
    "perplexity beyond": ({"perplexity": 15.5 * 1.0055}, {"perplexity"}),
    "perplexity better than claimed": ({"perplexity": 15.5 / 1.0055}, {"perplexity"}),
    "dense perplexity beyond": ({"baseline_perplexity": 12.3}, {"source's perplexity"}),
    "KL within two per cent": ({"kl": 0.21 * 1.019}, set()),
    "KL beyond": ({"kl": 0.21 * 1.03}, {"KL to the source"}),
    "no number": ({"perplexity": None}, {"perplexity"}),
    "no KL": ({"kl": None}, {"KL to the source"}),
}


@pytest.mark.parametrize(("measured", "fails"), TEXTS.values(), ids=TEXTS)
def test_numbers_of_a_text(measured: dict[str, Any], fails: set[str]) -> None:
    assert failing(compare_text(text(), text(**measured), beside_source=True)) == fails


def test_a_small_divergence_has_an_absolute_tolerance() -> None:
    for kl, fails in ((0.0029, set()), (0.0031, {"KL to the source"})):
        checks = compare_text(text(kl=0.002), text(kl=kl), beside_source=True)
        assert failing(checks) == fails


def test_what_is_claimed_to_be_no_number_must_be_none() -> None:
    nothing = {"perplexity": None, "kl": None}
    assert not failing(compare_text(text(**nothing), text(**nothing), beside_source=True))
    assert failing(compare_text(text(**nothing), text(), beside_source=True))


def test_without_the_source_its_claims_are_open() -> None:
    checks = [*compare_text(text(), text(), beside_source=False)]
    checks += compare_task("boolq", task(), task(), beside_source=False)
    assert [check.status for check in checks] == [
        *("passed", "not checked", "not checked"),
        *("passed", "not checked"),
    ]
    assert all("give --source" in c.detail for c in checks if c.status == "not checked")
    assert all(c.problem is Unresolved for c in checks if c.status == "not checked")
    alone = text(baseline_perplexity=None, kl=None)
    assert len([*compare_text(alone, alone, beside_source=False)]) == 1


TASKS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "the same": ({}, set()),
    "six of 3,270 otherwise": ({"acc": 0.71 + 6 / 3270}, set()),
    "seven otherwise": ({"acc": 0.71 + 7 / 3270}, {"task boolq"}),
    "worse": ({"acc_norm": 0.7}, {"task boolq"}),
    "a false standard error": ({"acc_stderr": 0.003}, {"task boolq"}),
    "no such score": ({"acc_norm": None}, {"task boolq"}),
    "fewer questions": ({"n": 3000}, {"task boolq"}),
    "other shots": ({"num_fewshot": 5}, {"task boolq"}),
    "other questions": ({"sha256": "9" * 64}, {"task boolq"}),
    "another dense score": ({"baseline": {"acc": 0.70, "acc_norm": 0.76}}, {"source's task boolq"}),
    "no dense score": ({"baseline": None}, {"source's task boolq"}),
}


@pytest.mark.parametrize(("measured", "fails"), TASKS.values(), ids=TASKS)
def test_scores_of_a_task(measured: dict[str, Any], fails: set[str]) -> None:
    changes = copy.deepcopy(measured)
    if isinstance(changes.get("baseline"), dict):
        changes["baseline"] = TASK["baseline"] | changes["baseline"]
    assert failing(compare_task("boolq", task(), task(**changes), beside_source=True)) == fails


def test_one_question_may_always_differ() -> None:
    few = {"n": 30, "acc": 0.5, "acc_norm": 0.5}
    for off, fails in ((1, set()), (2, {"task boolq"})):
        checks = compare_task(
            "boolq", task(**few), task(**few | {"acc": 0.5 + off / 30}), beside_source=True
        )
        assert failing(checks) == fails


def test_other_metrics_are_compared_too() -> None:
    claim = TaskClaim.model_validate(METRICS)
    for value, fails in ((21.53, set()), (21.6, {"task qa"}), (None, {"task qa"})):
        measured = METRICS | {"metrics": {"qa_f1": {"value": value}}}
        again = TaskClaim.model_validate(measured)
        assert failing(compare_task("qa", claim, again, beside_source=True)) == fails


def test_a_task_without_a_score_is_no_claim_that_holds() -> None:
    empty = TaskClaim.model_validate({"n": 5})
    assert failing(compare_task("x", empty, empty, beside_source=True)) == {"task x"}


ACCURACY: dict[str, tuple[dict[str, Any] | None, bool]] = {
    "the same": ({}, True),
    "within the tasks' tolerance": ({"mean": 0.7115, "ratio": 0.9487}, True),
    "another ratio": ({"ratio": 0.97}, False),
    "another mean": ({"mean": 0.72}, False),
    "another dense mean": ({"baseline_mean": 0.74}, False),
    "another bound": ({"lower": 0.91}, False),
    "another interval": ({"interval": [0.9, 0.966]}, False),
    "no bound": ({"lower": None}, False),
    "more tasks": ({"tasks": 2}, False),
    "nothing": (None, False),
}


@pytest.mark.parametrize(("changes", "holds"), ACCURACY.values(), ids=ACCURACY)
def test_the_accuracy_ratio(changes: dict[str, Any] | None, holds: bool) -> None:
    claim = AccuracyClaim.model_validate(QUALITY["accuracy"])
    again = None
    if changes is not None:
        again = AccuracyClaim.model_validate(QUALITY["accuracy"] | changes)
    moved = task(acc=0.7129)
    check = compare_accuracy(claim, again, {"boolq": moved}, {"boolq": task()})
    assert (check.status == "passed") == holds, check


@pytest.mark.parametrize("lower", [0.99, 0.91])
def test_where_all_answers_are_the_same_so_is_the_bound_of_few_questions(lower: float) -> None:
    """Twenty questions leave a wide tolerance, in which a forged bound could hide."""
    few = {"boolq": task(n=20)}
    honest = AccuracyClaim.model_validate(QUALITY["accuracy"] | {"n": 20})
    forged = AccuracyClaim.model_validate(QUALITY["accuracy"] | {"n": 20, "lower": lower})
    assert compare_accuracy(honest, honest, few, few).status == "passed"
    assert compare_accuracy(forged, honest, few, few).status == "failed"


# -- gates -----------------------------------------------------------------------------------------


def gate(name: str, measured: float | None, limit: float, **changes: Any) -> dict[str, Any]:
    passed = measured is not None and measured <= limit
    margin = None if measured is None else limit - measured
    recorded = {"name": name, "measured": measured, "limit": limit, "margin": margin}
    return recorded | {"passed": passed, "unit": "", "why": ""} | changes


def released(*gates: dict[str, Any]) -> tuple[Manifest, ModelShape, ModelShape]:
    dense, kept = deep(4)
    manifest = {
        "schema": 1,
        "slimgpt_version": "0",
        "source": {"name": "x", "digest": "0" * 64},
        "recipe": {},
        "shape": kept.to_manifest(),
        "parameters": {"before": 9, "after": 8, "decoder_before": 7, "decoder_after": 6},
        "quality": QUALITY,
        "gates": gates,
        "environment": {},
        "files": {"x": "0" * 64},
    }
    return parse_manifest(manifest | {"gates": list(gates)}, "x"), kept, dense


_dense, _kept = deep(4)
WEIGHTS = _kept.parameters / _dense.parameters
GATES: dict[str, tuple[dict[str, Any], str | None]] = {
    "true": (gate("kl[test.txt@128]", 0.21, 0.3), None),
    "missed": (gate("kl[test.txt@128]", 0.21, 0.2), None),
    "increase": (gate("perplexity_increase[test.txt@128]", 0.25, 0.3), None),
    "accuracy": (gate("accuracy", 0.93, 0.95, margin=-0.02, passed=False), None),
    "weights": (gate("weight_bytes", float(f"{WEIGHTS:.5g}"), 0.95), None),
    "not measured": (gate("kl[other.txt@128]", None, 0.3), None),
    "a false number": (gate("kl[test.txt@128]", 0.1, 0.2), "what was measured gives 0.21"),
    "a false verdict": (gate("kl[test.txt@128]", 0.21, 0.2, passed=True), "as passed, but"),
    "a false size": (gate("weight_bytes", 0.5, 0.9), "weight_bytes is recorded with 0.5"),
    "a verdict from nothing": (gate("kl[x@1]", None, 0.2, passed=True), "was not measured"),
    "a number from nothing": (gate("kl[x@1]", 0.1, 0.2), "was not measured"),
    "of another kind": (gate("beauty", 1, 2), "beauty: slimgpt has no such gates"),
}


@pytest.mark.parametrize(("recorded", "says"), GATES.values(), ids=GATES)
def test_a_recorded_gate(recorded: dict[str, Any], says: str | None) -> None:
    (check,) = check_gates(*released(recorded))
    assert (check.status == "failed") == (says is not None), check
    assert (says or "") in check.detail


def test_sizes_need_the_source_and_no_gates_need_nothing() -> None:
    manifest, kept, _ = released(gate("weight_bytes", 0.5, 0.9))
    assert [check.status for check in check_gates(manifest, kept, None)] == ["passed"]
    assert check_gates(released()[0], kept, None) == []


# -- how it ends -----------------------------------------------------------------------------------

PASSED = Check("a", "passed", "well")
FAILED = Check("b", "failed", "badly")
OPEN = Check("c", "not checked", "give --data with x", Unresolved)
LACKING = Check("d", "not checked", "pip install it", EnvironmentProblem)
LEFT_OUT = Check("e", "not checked", "not asked for")


@pytest.mark.parametrize(
    ("checks", "code", "says"),
    [
        ((PASSED, LEFT_OUT), 0, ""),
        ((PASSED, OPEN, OPEN), 3, "m is not verified to the end: give --data with x; or leave"),
        ((OPEN, LACKING), 4, "pip install it; or leave"),
        ((PASSED, FAILED, FAILED, LACKING, OPEN), 5, "m failed 2 of 5 checks: b, b"),
    ],
)
def test_the_gravest_finding_decides(checks: tuple[Check, ...], code: int, says: str) -> None:
    verification = Verification(checks)
    assert verification.to_json()["verified"] == (code == 0)
    if not code:
        verification.require("m")
        return
    with pytest.raises((IntegrityError, EnvironmentProblem, Unresolved), match=says) as raised:
        verification.require("m")
    assert raised.value.exit_code == code


def test_what_a_machine_lacks_is_no_failure() -> None:
    def lacking() -> str:
        raise EnvironmentProblem("no GPU")

    assert attempt("x", lacking) == Check("x", "not checked", "no GPU", EnvironmentProblem)
