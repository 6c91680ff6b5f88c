"""What is said of a level: its rates, whether it held, whether the client kept up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from slimgpt_bench.load.client_state import judge_client
from slimgpt_bench.load.level import Level, make_level
from slimgpt_bench.load.options import LoadOptions
from slimgpt_bench.load.record import Record
from slimgpt_bench.load.steady import growth, slope
from slimgpt_bench.load.window import Run
from slimgpt_bench.slo import OBJECTIVES, Slo

SERVICE_S = 0.2


def slo(attainment: float = 0.9, **objectives: float) -> Slo:
    bounds = {name: objectives.get(name) for name in OBJECTIVES}
    return Slo(**bounds, attainment=attainment, confidence=0.95, digest="0" * 64)


def record(
    index: int,
    scheduled: float,
    ttft_s: float = 0.1,
    e2e_s: float = SERVICE_S,
    *,
    failure: str | None = None,
    **told: Any,
) -> Record:
    """An answer of five tokens, or a failure."""
    found = Record(index, "measured", 4, 5, scheduled, scheduled, scheduled)
    found.ended = scheduled + e2e_s
    found.failure = failure
    if not failure:
        found.times = list(np.linspace(scheduled + ttft_s, found.ended, 5))
        found.prompt_tokens, found.output_tokens, found.texts = 4, 5, 5
        found.finish_reason = "length"
    return dataclasses.replace(found, **told)


def run_of(records: list[Record], seconds: float) -> Run:
    run = Run(records, 0.0, seconds)
    run.health.lags, run.health.cpu_s, run.health.wall_s = [0.001] * 100, 1.0, 10.0
    return run


def level_of(
    rate: float,
    e2e: Callable[[int, float], float] = lambda index, at: SERVICE_S,
    *,
    seconds: float = 20.0,
    objective: Slo | None = None,
) -> Level:
    """A level of evenly spaced requests, each with its time."""
    times = np.arange(0.5, rate * seconds) / rate
    records = [record(i, at, e2e(i, at) / 2, e2e(i, at)) for i, at in enumerate(times.tolist())]
    options = LoadOptions(rates=(rate,), slo=objective)
    return make_level({"rate_rps": rate}, run_of(records, seconds), options, accept_errors=0.0)


# -- trends -------------------------------------------------------------------------------------


def test_a_slope_is_found_through_noise_and_zero_is_not_called_one():
    rng = np.random.default_rng(0)
    times = np.arange(200) / 10
    noise = rng.exponential(0.1, 200)
    rising = slope(times.tolist(), (0.03 * times + noise).tolist())
    assert rising.rises
    assert rising.per_s == pytest.approx(0.03, abs=0.005)
    found = [slope(times.tolist(), rng.exponential(0.1, 200).tolist()).rises for _ in range(200)]
    assert sum(found) < 16, "at 95 %, one in 40 by chance"


def test_a_line_that_grows_is_measured():
    begins = (np.arange(400) / 20).tolist()
    ends = (np.arange(400) / 15 + 0.1).tolist()
    found = growth(begins, ends, 0, 20)
    assert found.rises
    assert found.per_s == pytest.approx(5, rel=0.1)
    assert not growth(begins, [x + 1 for x in begins], 2, 18).rises


def test_few_requests_have_no_trend():
    assert slope([1, 2], [1, 2]).to_json() == {"per_s": "insufficient", "interval": "insufficient"}
    assert not growth([1], [2], 0, 3).rises


# -- levels -------------------------------------------------------------------------------------


def test_a_steady_level_gives_what_was_offered():
    level = level_of(10.0)
    told = level.to_json()
    assert (level.saturated, told["valid"], told["problems"]) == (False, True, [])
    assert told["achieved_rps"] == pytest.approx(10, rel=0.02)
    assert told["output_tokens_per_s"] == pytest.approx(50, rel=0.02)
    assert told["goodput_rps"] == told["achieved_rps"]
    low, high = told["goodput_interval"]
    assert low <= told["goodput_rps"] <= high
    assert told["tpot_s"]["median"] == pytest.approx(0.1 / 4)
    assert told["requests"] == {"sent": 200, "ok": 200, "failed": {}}


def test_what_comes_after_the_window_is_not_credited():
    level = level_of(10.0, lambda i, at: SERVICE_S + at * 0.5)
    assert level.saturated
    assert level.rates.answers < 8


def test_a_trace_is_counted_until_its_last_answer():
    run = run_of([record(i, i / 10, 5.0, 9.9) for i in range(2)], 0.1)
    options = LoadOptions(rates=(10.0,))
    cut = make_level({"rate_rps": 10.0}, run, options, accept_errors=0)
    assert cut.rates.answers == 0
    run.to_the_end = True
    whole = make_level({"rate_rps": 10.0}, run, options, accept_errors=0)
    assert whole.rates.answers == whole.rates.good == pytest.approx(2 / 10)


def test_a_client_that_gave_up_in_its_warm_up_has_a_level_that_says_so():
    warm = [record(i, i / 10, phase="warmup") for i in range(30)]
    run = Run(warm, 9.0, 2.0, hopeless=True)
    level = make_level({"rate_rps": 1e5}, run, LoadOptions(rates=(1e5,)), accept_errors=0)
    assert level.duration_s > 0
    assert (level.rates.answers, level.rates.good) == (0, 0)
    assert "it gave up" in level.faults()[0]
    assert "no request was due" in level.faults()[-1]


def test_answers_that_keep_up_slowly_are_not_saturation():
    assert not level_of(10.0, lambda i, at: 3.0).saturated


def test_failures_miss_the_slo_and_stay_in_its_denominator():
    records = [record(i, i / 10, failure="http_5xx" if i % 4 == 0 else None) for i in range(200)]
    options = LoadOptions(rates=(10.0,), slo=slo(ttft_s=1.0))
    level = make_level({"rate_rps": 10.0}, run_of(records, 20.0), options, accept_errors=0.5)
    assert level.attainment
    assert (level.attainment.value, level.attainment.n) == (0.75, 200)
    assert level.rates.good == pytest.approx(7.5, rel=0.05)
    assert (level.sent, level.ok, level.failed) == (200, 150, {"http_5xx": 50})
    assert not level.faults()


@pytest.mark.parametrize(
    ("bound", "share"), [({"ttft_s": 0.05}, 0), ({"ttft_s": 0.15}, 1), ({"itl_s": 0.02}, 0)]
)
def test_one_bound_that_is_missed_is_enough(bound, share):
    level = level_of(10.0, objective=slo(**{"e2e_s": 9.0, **bound}))
    assert level.attainment
    assert level.attainment.value == share
    assert (level.rates.good > 0) == bool(share)


def test_a_closed_loop_has_the_rate_of_littles_law():
    """Eight places in step: a count over the window would be off by as many."""
    records = [record(8 * i + k, i * SERVICE_S) for i in range(10) for k in range(8)]
    run = run_of(records, 9 * SERVICE_S)
    level = make_level({"concurrency": 8}, run, LoadOptions(concurrency=(8,)), accept_errors=0)
    assert level.rates.answers == pytest.approx(8 / SERVICE_S)
    assert not level.saturated


def test_refusals_for_load_are_saturation():
    records = [
        record(i, i / 10, failure="http_4xx" if i % 5 == 0 else None, status=429)
        for i in range(100)
    ]
    options = LoadOptions(rates=(10.0,))
    assert make_level({"rate_rps": 10.0}, run_of(records, 10), options, accept_errors=1).saturated


def test_no_answer_is_no_measurement_whatever_is_accepted():
    records = [record(i, i / 10, failure="no_tokens", detail="nothing came") for i in range(50)]
    options = LoadOptions(rates=(10.0,))
    level = make_level({"rate_rps": 10.0}, run_of(records, 5.0), options, accept_errors=1.0)
    told = level.to_json()
    assert not told["valid"]
    assert "none of 50 requests succeeded (no_tokens 50: nothing came)" in told["problems"][0]
    assert told["ttft_s"]["median"] == "insufficient"
    assert told["failures"] == [
        {"class": "no_tokens", "status": None, "count": 50, "example": "nothing came"}
    ]


def test_failures_beyond_what_is_accepted_make_a_level_invalid():
    records = [record(i, i / 10, failure="timeout" if i == 3 else None) for i in range(100)]
    options = LoadOptions(rates=(10.0,))
    run = run_of(records, 10.0)
    strict = make_level({"rate_rps": 10.0}, run, options, accept_errors=0.0)
    assert "1 of 100 requests failed (timeout 1)" in strict.faults()[0]
    assert not make_level({"rate_rps": 10.0}, run, options, accept_errors=0.01).faults()


def test_a_level_without_requests_says_so():
    level = make_level(
        {"rate_rps": 1.0}, run_of([], 5.0), LoadOptions(rates=(1.0,)), accept_errors=0
    )
    assert "no request was due" in level.faults()[0]
    assert level.to_json()["achieved_rps"] == 0


# -- the client ---------------------------------------------------------------------------------


def _reasons(run: Run) -> str:
    return "; ".join(judge_client(run, 0.1).reasons)


def test_a_client_that_keeps_up_is_not_blamed():
    run = run_of([record(i, i / 10) for i in range(100)], 10.0)
    run.health.lags = [0.001] * 97 + [0.3] * 3  # a busy machine wakes anyone late now and then
    assert not _reasons(run)
    assert not judge_client(Run(), math.nan).saturated
    short = run_of([record(0, 0.0, released=0.2, sent=0.2)], 0.1)  # one wake-up tells nothing
    short.health.lags, short.health.cpu_s = [0.2], 9.9
    assert not _reasons(short)


def test_a_client_that_does_not_is_found_out():
    late = [record(i, i / 10, released=i / 10 + 0.02, sent=i / 10 + 0.02) for i in range(100)]
    run = run_of(late, 10.0)
    assert "requests were 20 ms late (median)" in _reasons(run)
    assert "it used 10% of a core, so other processes kept it" in _reasons(run)
    run = run_of([record(i, i / 10) for i in range(100)], 10.0)
    run.health.lags, run.health.cpu_s = [0.2] * 100, 9.9
    run.hopeless, run.records[-1].released = True, 12.0
    run.records[0].out_of_files = True
    reasons = _reasons(run)
    assert "its event loop was 200 ms late (median)" in reasons
    assert "it used 99% of a core" in reasons
    assert "it gave up, 2.1 s behind its schedule" in reasons
    assert "no file descriptor left" in reasons


def test_waiting_for_a_place_is_not_being_late():
    capped = [record(i, i / 10, sent=i / 10 + 5) for i in range(100)]
    assert not _reasons(run_of(capped, 10.0))
    assert capped[0].queue_s == 5
