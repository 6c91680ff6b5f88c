"""The search for a rate and the sweep, on servers whose truth is a formula."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from slimgpt.errors import Unresolved
from slimgpt_bench.load.client_state import ClientState, judge_client
from slimgpt_bench.load.document import Plan, _met_above, document
from slimgpt_bench.load.level import Level, make_level
from slimgpt_bench.load.options import LoadOptions
from slimgpt_bench.load.search import RESOLUTION, Found, Search, fewest_requests, judge
from slimgpt_bench.load.sweep import find_saturation
from slimgpt_bench.load.target import Target
from slimgpt_bench.workload.lengths import Lengths
from slimgpt_bench.workload.sources import Words
from slimgpt_bench.workload.workload import Workload
from tests.unit.test_bench_load_level import level_of, record, run_of, slo

GOOD_S, BAD_S = 0.1, 5.0
SLO = slo(attainment=0.9, e2e_s=1.0)


def _level(rate: float, misses: float, seconds: float, seed: int) -> Level:
    """A level of which a share misses the bound."""
    rng = np.random.default_rng(seed)
    return level_of(
        rate,
        lambda i, at: BAD_S if rng.random() < misses else GOOD_S,
        seconds=seconds,
        objective=SLO,
    )


def _search(share_of_misses: Callable[[float], float], start: float | None = None) -> Found:
    probes = 0

    async def open_loop(rate: float, seconds: float) -> Level:
        nonlocal probes
        probes += 1
        return _level(rate, share_of_misses(rate), seconds, probes)

    async def closed_loop(places: int, requests: int) -> Level:
        return _level(10.0, share_of_misses(0), requests / 10, 0)

    return asyncio.run(Search(SLO, 5.0, open_loop, closed_loop).run(start))


@pytest.mark.parametrize("start", [1.0, 50.0, None])
def test_the_highest_rate_that_meets_the_slo_is_bracketed(start):
    true = 13.0
    found = _search(lambda rate: 0.0 if rate <= true else 0.5, start)
    assert found.rate_rps
    assert found.too_high_rps
    assert found.rate_rps <= true <= found.too_high_rps
    assert found.too_high_rps / found.rate_rps <= RESOLUTION


def test_a_rate_that_can_not_be_told_is_not_called_met():
    found = _search(lambda rate: 0.0 if rate <= 8 else 0.1, 1.0)  # misses exactly what is allowed
    assert found.rate_rps
    assert found.rate_rps <= 8
    assert any(x["verdict"] == "unresolved" for x in found.probes)


def test_what_is_unresolved_is_measured_longer():
    found = _search(lambda rate: 0.0 if rate <= 8 else 0.1, 1.0)
    rates = [x for x in found.probes if "rate_rps" in x]
    unresolved = [x["duration_s"] for x in rates if x["verdict"] == "unresolved"]
    again = [b for a, b in pairwise(unresolved) if b > 2 * a]
    assert again


def test_a_low_rate_gets_the_time_that_its_requests_need():
    found = _search(lambda rate: 0.0 if rate <= 4 else 0.9, 0.5)
    first = next(x for x in found.probes if x.get("rate_rps") == 0.5)
    assert first["duration_s"] * 0.5 >= fewest_requests(SLO)
    assert first["verdict"] == "met"


def test_an_slo_that_one_request_at_a_time_misses_is_given_up_at_once():
    found = _search(lambda rate: 0.9)
    assert (found.rate_rps, len(found.probes)) == (None, 1)
    assert found.why == "even one request at a time misses the SLO"
    assert found.best == pytest.approx(0.1, abs=0.1)


def test_an_slo_that_no_rate_meets_is_given_up_in_the_end():
    found = _search(lambda rate: 0.8 if rate else 0.0, 64.0)
    assert found.rate_rps is None
    assert "no rate down to 1 requests" in found.why


def test_a_saturated_client_ends_the_search_and_is_said():
    async def open_loop(rate: float, seconds: float) -> Level:
        level = _level(rate, 0.0, seconds, 1)
        if rate > 20:
            return replace(level, client=_saturated())
        return level

    async def closed_loop(places: int, requests: int) -> Level:
        return _level(10.0, 0.0, 2.0, 0)

    found = asyncio.run(Search(SLO, 5.0, open_loop, closed_loop).run(8.0))
    assert (found.rate_rps, found.too_high_rps) == (16.0, None)
    assert found.why == "the client is saturated at 32 requests a second"


STARVED = ClientState({}, {}, 0.2, {}, ("it was late",), starved=True)


def _starved_search(starved: Callable[[int], bool]) -> Found:
    """The client is kept from running in some probes, by their number; 13 a second is the truth."""
    probes = 0

    async def open_loop(rate: float, seconds: float) -> Level:
        nonlocal probes
        probes += 1
        level = _level(rate, 0.0 if rate <= 13 else 0.9, seconds, probes)
        return replace(level, client=STARVED) if starved(probes) else level

    async def closed_loop(places: int, requests: int) -> Level:
        return _level(10.0, 0.0, requests / 10, 0)

    return asyncio.run(Search(SLO, 5.0, open_loop, closed_loop).run(8.0))


def test_a_probe_in_which_the_client_was_starved_is_repeated():
    found = _starved_search(lambda probe: probe % 3 != 0)  # two of three
    assert found.rate_rps
    assert found.too_high_rps
    assert found.rate_rps <= 13 <= found.too_high_rps
    assert not any(x["verdict"] == "met" for x in found.probes[1::3] + found.probes[2::3])


@pytest.mark.parametrize(("calm", "rate", "beyond"), [(0, None, None), (1, 8, None), (2, 8, 16)])
def test_a_client_that_is_starved_again_and_again_ends_the_search_and_it_says_so(
    calm, rate, beyond
):
    found = _starved_search(lambda probe: probe > calm)
    assert (found.rate_rps, found.too_high_rps) == (rate, beyond)
    assert "other processes kept the client from running at" in found.why
    assert "3 times in a row" in found.why
    assert [x["verdict"] for x in found.probes[-3:]] == 3 * ["client"]


def test_a_rate_is_not_called_the_highest_where_nothing_above_it_was_seen_to_miss():
    target = Target("http://x", "m", None, None, None, None)
    workload = Workload(Words(), Lengths.parse("4"), Lengths.parse("5"), seed=0)
    options = LoadOptions(find_rate=True, slo=SLO)
    for calm, problems in ((1, 1), (2, 0)):
        found = _starved_search(partial(operator.lt, calm))
        levels = [_level(8.0, 0.0, 5.0, 1)]
        told = document(target, None, workload, options, levels, Plan(search=found.to_json()))
        assert (told["valid"], len(told["problems"])) == (not problems, problems)
        if problems:
            assert "8 requests a second meet the SLO, and perhaps more do" in told["problems"][0]


def test_a_server_that_is_gone_is_not_searched_on():
    async def open_loop(rate: float, seconds: float) -> Level:
        records = [record(i, i / rate, failure="connect") for i in range(round(rate * seconds))]
        options = LoadOptions(find_rate=True, slo=SLO)
        return make_level({"rate_rps": rate}, run_of(records, seconds), options, accept_errors=1)

    async def closed_loop(places: int, requests: int) -> Level:
        return _level(10.0, 0.0, 2.0, 0)

    async def gone() -> bool:
        return True

    found = asyncio.run(Search(SLO, 5.0, open_loop, closed_loop, gone).run(8.0))
    assert (found.rate_rps, len(found.probes)) == (None, 2)
    assert found.why == "the server was gone at 8 requests a second"


def _saturated() -> ClientState:
    run = run_of([record(0, 0.0)], 1.0)
    run.health.cpu_s = run.health.wall_s
    return judge_client(run, 0.1)


def test_a_growing_line_is_missed_before_its_bounds_are():
    level = level_of(10.0, lambda i, at: 0.1 + 0.04 * at, objective=slo(0.9, e2e_s=9.0))
    assert level.attainment
    assert level.attainment.value == 1
    longer = level_of(10.0, lambda i, at: 0.1 + 0.2 * at, objective=slo(0.9, e2e_s=99.0))
    assert (longer.saturated, judge(longer, SLO)) == (True, "missed")


# -- sweeps -------------------------------------------------------------------------------------


def test_the_saturation_is_where_more_places_bring_no_more():
    async def measure(places: int, requests: int) -> Level:
        each = 0.1 * max(1, places / 8)  # eight requests run together, the others wait
        records = [record(i, i / places * each, each / 2, each) for i in range(requests)]
        options = LoadOptions(sweep=True)
        run = run_of(records, requests / places * each)
        return make_level({"concurrency": places}, run, options, accept_errors=1.0)

    found = asyncio.run(find_saturation(measure))
    assert found.rate_rps == pytest.approx(80)
    assert [x["concurrency"] for x in found.probes] == [1, 2, 4, 8, 16, 32]
    assert found.rates() == [20, 40, 60, 72, 80, 88]


def test_one_slow_probe_does_not_end_the_search_for_the_saturation():
    async def measure(places: int, requests: int) -> Level:
        each = 0.1 * max(1, places / 8) * (4 if places == 2 else 1)
        records = [record(i, i / places * each, each / 2, each) for i in range(requests)]
        options = LoadOptions(sweep=True)
        run = run_of(records, requests / places * each)
        return make_level({"concurrency": places}, run, options, accept_errors=1.0)

    assert asyncio.run(find_saturation(measure)).rate_rps == pytest.approx(80)


def test_a_higher_rate_that_met_the_slo_makes_a_found_rate_doubtful():
    search = {
        "rate_rps": 62.0,
        "probes": [{"rate_rps": 88.0, "verdict": "met"}, {"rate_rps": 68.0}],
    }
    [problem] = _met_above(search)
    assert "88 requests a second met the SLO and a lower rate did not" in problem
    assert _met_above({**search, "rate_rps": 88.0}) == []


def test_a_server_that_answers_nothing_has_no_saturation():
    async def measure(places: int, requests: int) -> Level:
        records = [record(i, i / 10, failure="http_5xx") for i in range(requests)]
        options = LoadOptions(sweep=True)
        return make_level({"concurrency": 1}, run_of(records, 5.0), options, accept_errors=1.0)

    with pytest.raises(Unresolved, match="--sweep: no request was answered"):
        asyncio.run(find_saturation(measure))


def test_a_starved_probe_of_a_sweep_is_repeated_and_a_limit_of_the_client_is_told():
    asked: list[int] = []

    async def measure(places: int, requests: int) -> Level:
        asked.append(places)
        records = [record(i, i / places / 10, 0.05, 0.1) for i in range(requests)]
        run = run_of(records, requests / places / 10)
        level = make_level({"concurrency": places}, run, LoadOptions(sweep=True), accept_errors=1)
        starved = places >= 4 or len(asked) == 2
        return replace(level, client=STARVED) if starved else level

    found = asyncio.run(find_saturation(measure))
    assert asked == [1, 2, 2, 4, 4, 4]
    assert "other processes kept the client from running with 4 requests" in found.why
    assert found.to_json()["why"] == found.why
