"""Quantities and shares: what they say, and when they say that they don't know."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimgpt_bench.quantity import exact_interval, fewest, of_requests, of_runs, share_of

NOMINAL = 0.95


def least(simulations: int) -> float:
    """Three standard errors below the nominal share, over so many simulations."""
    return NOMINAL - 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / simulations)


def test_a_percentile_needs_as_many_samples_as_mlperf_says():
    # inference_rules.adoc of mlcommons/inference_policies, at confidence 0.95 and 0.99
    assert (fewest(0.90), fewest(0.95), fewest(0.99)) == (29, 59, 299)
    assert (fewest(0.95, 0.99), fewest(0.99, 0.99)) == (90, 459)


@pytest.mark.parametrize(
    ("n", "p95", "p99"), [(58, False, False), (59, True, False), (298, True, False)]
)
def test_too_few_samples_give_no_percentile(n, p95, p99):
    told = of_requests([[float(i)] for i in range(1, n + 1)]).to_json()
    assert (told["p95"] != "insufficient", told["p99"] != "insufficient") == (p95, p99)
    assert ("p95_interval" in told, "p99_interval" in told) == (p95, p99)
    assert told["n"] == n


def test_enough_samples_give_all():
    told = of_requests([[float(i)] for i in range(1, 300)]).to_json()
    assert told["median"] == 150
    assert told["p99"] == pytest.approx(296.02)
    low, high = told["p99_interval"]
    assert low <= told["p99"] <= high


def test_nothing_measured_is_no_number():
    told = of_requests([]).to_json()
    assert told == {
        "median": "insufficient",
        "p95": "insufficient",
        "p99": "insufficient",
        "interval": "insufficient",
        "n": 0,
    }
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_never_summed_up(value):
    with pytest.raises(ValueError, match="finite"):
        of_runs([[1.0, value]])


def test_many_gaps_of_few_requests_give_no_percentile():
    assert of_requests([[0.1] * 1000] * 20).to_json()["p95"] == "insufficient"
    assert of_runs([[0.1] * 1000] * 6, units=30).to_json()["p95"] == "insufficient"
    assert of_runs([[0.1] * 1000] * 6, units=60).to_json()["p95"] == 0.1


@pytest.mark.parametrize("runs", [1, 2])
def test_one_or_two_processes_have_no_interval(runs):
    assert of_runs([[1.0, 2.0, 3.0]] * runs).interval is None


@pytest.mark.parametrize("runs", [3, 5, 6, 10])
def test_intervals_over_processes_hold_the_truth(runs):
    rng = np.random.default_rng(100 + runs)
    held, simulations = 0, 200
    for seed in range(simulations):
        drawn = np.exp(rng.normal(0, 0.1, (runs, 1)) + rng.normal(0, 0.05, (runs, 20)))
        interval = of_runs(drawn.tolist(), seed=seed).interval
        assert interval
        held += interval[0] <= 1 <= interval[1]
    assert held / simulations >= least(simulations)


@pytest.mark.parametrize(("runs", "trials"), [(6, 20), (10, 10)])
def test_intervals_of_a_percentile_hold_it(runs, trials):
    """Also where 95 % of the values is a whole number of them, which whole processes often meet."""
    rng = np.random.default_rng(runs)
    held, below, simulations = 0, 0, 200
    for seed in range(simulations):
        drawn = rng.normal(10, 1, (runs, trials))
        low, high = of_runs(drawn.tolist(), seed=seed).percentile_intervals["p95"]
        held += low <= 10 + 1.6448536 <= high
        below += high < 10 + 1.6448536
    # 0.80 and 0.18 where the lower of two values stands for both. Few processes: not all of 0.95.
    assert held / simulations >= least(simulations) - 0.04
    assert below / simulations <= 0.13


def test_resampling_values_instead_of_processes_would_claim_too_much():
    rng = np.random.default_rng(1)
    runs = np.exp(rng.normal(0, 0.1, (8, 1)) + rng.normal(0, 0.01, (8, 40)))
    whole = of_runs(runs.tolist()).interval
    single = of_requests([[x] for x in rng.permutation(runs.ravel())]).interval
    assert whole
    assert single
    assert whole[1] - whole[0] > 1.5 * (single[1] - single[0])


def queue(n: int, memory: float, rng: np.random.Generator) -> np.ndarray:
    """Standard normal values of which neighbours are alike."""
    drawn = rng.normal(size=n)
    for i in range(1, n):
        drawn[i] = memory * drawn[i - 1] + math.sqrt(1 - memory**2) * drawn[i]
    return drawn


@pytest.mark.parametrize(("n", "memory"), [(60, 0.0), (200, 0.6)])
def test_intervals_over_a_queue_hold_the_truth(n, memory):
    rng = np.random.default_rng(7)
    median, share, simulations = 0, 0, 120
    for seed in range(simulations):
        values = queue(n, memory, rng)
        interval = of_requests([[math.exp(v)] for v in values], seed=seed).interval
        assert interval
        median += interval[0] <= 1 <= interval[1]
        low, high = share_of([bool(v < 1.281552) for v in values]).interval
        share += low <= 0.9 <= high
    # Blocks are an approximation: of strongly related neighbours it may lose a few percent.
    wanted = least(simulations) - (0.04 if memory else 0)
    assert median / simulations >= wanted
    assert share / simulations >= wanted


def test_misses_in_a_row_tell_less_than_misses_apart():
    apart = share_of([i % 10 != 0 for i in range(400)])
    together = share_of([i >= 40 for i in range(400)])
    assert apart.value == together.value == 0.9
    assert together.effective_n < apart.effective_n == 400
    assert together.interval[0] < apart.interval[0]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # R: binom.test(k, n)$conf.int
    [(0, 10, 0, 0.3084971), (59, 59, 0.9393911, 1), (95, 100, 0.8871651, 0.9835682)],
)
def test_the_exact_interval_is_the_tables(successes, trials, low, high):
    assert exact_interval(successes, trials) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("successes", [0.25, 1e-9, 19.75])
def test_the_exact_interval_of_parts_of_a_request_is_no_narrower_than_none(successes):
    low, high = exact_interval(successes, 20)
    assert 0 <= low < high <= 1
    assert exact_interval(0, 20)[1] < high or low < exact_interval(20, 20)[0]
    assert low == 0 or high == 1


def test_all_of_fifty_nine_meet_a_share_of_95_percent_one_sided_only():
    # Two-sided at 95 % each tail has 2.5 %, so it takes more than the 59 of a one-sided bound.
    assert share_of([True] * 59).against(0.95) == "unresolved"
    assert share_of([True] * 100).against(0.95) == "met"
    assert share_of([False] * 20 + [True] * 20).against(0.95) == "missed"


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no requests"):
        share_of([])


@given(
    st.lists(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8), min_size=6, max_size=30),
    st.integers(0, 3),
)
def test_an_interval_lies_within_the_values_and_is_the_same_again(runs, seed):
    first, again = of_runs(runs, seed=seed), of_runs(runs, seed=seed)
    assert first == again
    assert first.interval
    low, high = first.interval
    everything = [x for run in runs for x in run]
    assert min(everything) <= low <= high <= max(everything)
