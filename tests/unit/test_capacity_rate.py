"""From levels to the rate of a replica: what is sure, what is likely, what is excluded."""

from collections.abc import Sequence

import pytest

from slimgpt_bench.capacity.levels import Raw, judged, meets, raw_levels
from slimgpt_bench.capacity.rate import Rate, measured_rate
from slimgpt_bench.slo import Slo
from tests.capacity_plans import Outcome

SLO = Slo(0.5, None, None, None, 0.95, 0.95, "")


def _rate(outcomes: dict[float, Outcome], runs: Sequence[str] = ("a", "b", "c")) -> Rate:
    raw = [
        Raw(rate, 60.0, outcome.saturated, tuple(outcome.requests(0)), run)
        for rate, outcome in outcomes.items()
        for run in runs
    ]
    return measured_rate(judged(raw, SLO), SLO, "measured", "a run")


def _values(rate: Rate) -> tuple[float | None, float | None, float | None]:
    return tuple(x.value for x in (rate.bounds.lower, rate.bounds.point, rate.bounds.upper))  # type: ignore[return-value]


def test_bounds_are_what_is_sure_likely_and_excluded() -> None:
    found = _rate({2: Outcome(500), 4: Outcome(500), 8: Outcome(96, 4), 16: Outcome(300, 200)})
    assert _values(found) == (4, 8, 16)
    assert not found.problems
    assert found.unresolved is None


def test_levels_may_come_in_any_order() -> None:
    found = _rate({16: Outcome(300, 200), 2: Outcome(500), 4: Outcome(500)})
    assert _values(found) == (4, 4, 16)


def test_a_failed_request_meets_nothing() -> None:
    assert _values(_rate({2: Outcome(500), 4: Outcome(400, failed=100)})) == (2, 2, 4)


def test_a_few_good_requests_are_not_enough_to_be_sure() -> None:
    """59 without a miss would show 95 %; 20 show less."""
    found = _rate({2: Outcome(20)}, runs=["a"])
    assert _values(found) == (None, 2, None)
    assert found.unresolved
    assert "no measured rate is sure to meet the SLO: at 2 requests/s 100.0%" in found.unresolved
    assert "measure longer, or lower rates" in found.unresolved


def test_runs_of_the_same_rate_stand_together() -> None:
    one, three = (_rate({2: Outcome(60)}, runs=x) for x in (["a"], ["a", "b", "c"]))
    assert (one.levels[0].attainment.n, three.levels[0].attainment.n) == (60, 180)
    assert (one.levels[0].runs, three.levels[0].runs) == (1, 3)


def test_too_few_runs_are_told() -> None:
    found = _rate({2: Outcome(500), 4: Outcome(100, 400)}, runs=["a", "b"])
    [problem] = found.problems
    assert "2 requests/s was measured in 2 run(s)" in problem


def test_a_growing_queue_is_never_sure() -> None:
    found = _rate({2: Outcome(500), 4: Outcome(500, saturated=True), 8: Outcome(100, 400)})
    assert _values(found) == (2, 2, 8)
    assert found.levels[1].against(SLO) == "unresolved"


def test_one_run_of_several_whose_queue_seems_to_grow_is_outvoted() -> None:
    raw = [
        Raw(2, 60.0, saturated, tuple(Outcome(500).requests(0)), run)
        for run, saturated in (("a", True), ("b", False), ("c", False))
    ]
    assert judged(raw, SLO)[0].against(SLO) == "met"
    assert judged(raw[:1], SLO)[0].against(SLO) == "unresolved"


def test_what_is_met_above_a_miss_is_not_used() -> None:
    found = _rate({2: Outcome(500), 4: Outcome(100, 400), 8: Outcome(500)})
    assert _values(found) == (2, 2, 4)
    assert any("at 8 requests/s the SLO is met though a lower rate" in x for x in found.problems)


def test_a_sweep_that_ends_too_early_is_told() -> None:
    found = _rate({2: Outcome(500)})
    assert _values(found) == (2, 2, None)
    assert any("the sweep ends before any rate misses the SLO" in x for x in found.problems)


def test_an_slo_that_no_rate_meets_says_the_best_that_was_seen() -> None:
    found = _rate({2: Outcome(300, 200), 4: Outcome(200, 300)})
    assert _values(found) == (None, None, 2)
    assert found.unresolved
    assert "no measured rate meets the SLO: the best is 60.0% at 2 requests/s" in found.unresolved
    assert "most often missed: ttft_s" in found.unresolved


def test_any_slo_judges_the_same_requests() -> None:
    requests = Outcome(1, 1, 1).requests(0)
    assert [meets(x, SLO) for x in requests].count(True) == 1
    wide = Slo(2.0, None, None, None, 0.95, 0.95, "")
    assert [meets(x, wide) for x in requests].count(True) == 2


def test_requests_under_way_are_those_of_littles_law() -> None:
    [level] = judged([Raw(2, 60.0, False, tuple(Outcome(120).requests(0)))], SLO)
    e2e = 0.2 + 0.02 * 127
    assert level.in_flight == pytest.approx(120 / 60 * e2e)


def test_misses_are_counted_by_what_was_missed() -> None:
    [level] = judged([Raw(2, 60.0, False, tuple(Outcome(10, 3, 2).requests(0)))], SLO)
    assert level.misses == {"ttft_s": 3, "failed: http_5xx": 2}


def test_a_percentile_needs_its_requests() -> None:
    few, many = (
        judged([Raw(2, 60.0, False, tuple(Outcome(n).requests(0)))], SLO)[0] for n in (58, 59)
    )
    assert few.seconds["ttft_s"]["p95"] is None
    assert many.seconds["ttft_s"]["p95"] == pytest.approx(0.2)


def _document(**changes: object) -> dict[str, object]:
    level = {
        "offered": {"rate_rps": 2.0},
        "duration_s": 60.0,
        "saturated": False,
        "valid": True,
        "problems": [],
        "requests": {"sent": 3, "ok": 3},
        "tokens": {},
        "client": {"saturated": False},
    }
    return {"levels": [level | changes]}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"offered": {"concurrency": 4}}, "a closed loop, which waits for answers"),
        ({"valid": False, "problems": ["the client was late"]}, "the client was late"),
        (
            {
                "valid": False,
                "problems": ["2 failed"],
                "requests": {"sent": 3, "ok": 1},
                "client": {"saturated": True},
            },
            "2 failed",
        ),
        (
            {
                "valid": False,
                "problems": ["wrong counts"],
                "requests": {"sent": 3, "ok": 2},
                "tokens": {"usage_mismatches": 2},
            },
            "wrong counts",
        ),
        (
            {"valid": False, "problems": ["none succeeded"], "requests": {"sent": 3, "ok": 0}},
            "none succeeded",
        ),
    ],
)
def test_levels_that_prove_nothing_are_left_out_with_the_reason(
    changes: dict[str, object], why: str
) -> None:
    found, left_out = raw_levels(_document(**changes), Outcome(3).requests(0))
    assert not found
    assert f"level 1 of it is left out: {why}" in left_out[0]


def test_a_level_whose_requests_failed_still_tells_of_misses() -> None:
    changes = {"valid": False, "problems": ["1 failed"], "requests": {"sent": 3, "ok": 2}}
    found, left_out = raw_levels(_document(**changes), Outcome(2, failed=1).requests(0))
    assert len(found) == 1
    assert not left_out


def test_what_was_sent_to_warm_up_does_not_count() -> None:
    requests = [x | {"phase": "warmup"} for x in Outcome(3).requests(0)]
    found, left_out = raw_levels(_document(), requests)
    assert not found
    assert "it has no requests" in left_out[0]
