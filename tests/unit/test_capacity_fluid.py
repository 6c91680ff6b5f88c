"""The modelled replica: floors, Little's law, and the rate that meets an SLO."""

from dataclasses import replace
from pathlib import Path

import pytest

from slimgpt_bench.accelerators import find
from slimgpt_bench.artefact import describe
from slimgpt_bench.capacity.fluid import Fluid
from slimgpt_bench.capacity.replica import Replica, Wishes, replica_of
from slimgpt_bench.capacity.traffic import Traffic, read_traffic
from slimgpt_bench.roofline.floor import floor
from slimgpt_bench.roofline.products import decode, prefill
from slimgpt_bench.slo import Slo
from tests.capacity_plans import LLAMA_8B, OUTPUT, PROMPT, write_checkpoint, write_traffic

SLO = Slo(0.5, 0.05, None, None, 0.95, 0.95, "")


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    path = write_checkpoint(tmp_path_factory.mktemp("m") / "dense", LLAMA_8B)
    return replica_of(describe(path), find("h100"), Wishes())


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    return read_traffic(write_traffic(tmp_path_factory.mktemp("t") / "t.yaml"))


@pytest.fixture
def varied(tmp_path: Path) -> Traffic:
    return read_traffic(
        write_traffic(
            tmp_path / "t.yaml", prompt_tokens="lognormal:512,400", output_tokens="uniform:1,400"
        )
    )


def test_fixed_lengths_hold_their_prompt_and_half_of_their_answer(
    replica: Replica, traffic: Traffic
) -> None:
    fluid = Fluid(replica, traffic)
    assert fluid.held_tokens == pytest.approx(PROMPT + OUTPUT / 2)
    assert fluid.longest_tokens == PROMPT + OUTPUT
    assert fluid.concurrent == pytest.approx(replica.kv_tokens / (PROMPT + OUTPUT / 2))
    assert fluid.concurrent_worst == replica.kv_tokens // (PROMPT + OUTPUT)


def test_long_answers_count_for_as_long_as_they_stay(replica: Replica, varied: Traffic) -> None:
    fluid = Fluid(replica, varied)
    prompt, output = fluid.sample.mean(axis=0)
    assert fluid.held_tokens > prompt + output / 2


def test_times_are_those_of_the_roofline(replica: Replica, traffic: Traffic) -> None:
    fluid = Fluid(replica, traffic)

    def seconds(step: object) -> float:
        return floor(replica.shape, step, replica.accelerator, replica.numbers).seconds  # type: ignore[arg-type]

    assert fluid.prefill_s.max() == pytest.approx(seconds(prefill(1, PROMPT)))
    assert fluid.step_s(1) == pytest.approx(seconds(decode(1, round(fluid.held_tokens))))


def test_a_slower_engine_takes_longer_in_proportion(replica: Replica, traffic: Traffic) -> None:
    best, likely = Fluid(replica, traffic), Fluid(replica, traffic, efficiency=0.25)
    assert likely.prefill_s.mean() == pytest.approx(4 * best.prefill_s.mean())
    assert likely.step_s(8) == pytest.approx(4 * best.step_s(8))


def test_requests_under_way_are_rate_times_time(replica: Replica, varied: Traffic) -> None:
    """Little's law, for the tokens after the first."""
    fluid = Fluid(replica, varied)
    state = fluid.at(20.0)
    assert state
    assert state.sequences == pytest.approx(20 * fluid.later_tokens * state.tpot_s, rel=1e-4)


def test_attainment_falls_with_the_rate(replica: Replica, varied: Traffic) -> None:
    fluid = Fluid(replica, varied)
    found = [fluid.attainment(rate, SLO) for rate in (0.0, 20.0, 40.0, 80.0, 160.0, 1e4)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1.0
    assert found[-1] == 0.0


def test_the_highest_rate_meets_the_slo_and_a_little_more_does_not(
    replica: Replica, varied: Traffic
) -> None:
    fluid = Fluid(replica, varied)
    rate = fluid.highest_rate(SLO)
    assert rate
    assert fluid.attainment(rate, SLO) >= SLO.attainment > fluid.attainment(rate * 1.001, SLO)


def test_tighter_bounds_and_slower_engines_bear_less(replica: Replica, varied: Traffic) -> None:
    fluid = Fluid(replica, varied)
    rates = [
        fluid.highest_rate(SLO),
        fluid.highest_rate(replace(SLO, tpot_s=0.02)),
        Fluid(replica, varied, efficiency=0.5).highest_rate(replace(SLO, tpot_s=0.02)),
    ]
    assert rates == sorted(rates, key=lambda x: -(x or 0))


def test_a_bound_below_the_floor_is_met_by_no_rate(replica: Replica, varied: Traffic) -> None:
    fluid = Fluid(replica, varied)
    assert fluid.highest_rate(replace(SLO, tpot_s=fluid.step_s(1) * 0.99)) is None
    assert fluid.highest_rate(replace(SLO, ttft_s=1e-9)) is None


def test_a_cached_prefix_needs_no_computing(replica: Replica, traffic: Traffic) -> None:
    cached = Fluid(replica, replace(traffic, prefix_share=0.75))
    assert cached.busy_s.mean() < 0.3 * Fluid(replica, traffic).busy_s.mean()


def test_prompts_that_are_read_together_share_the_weights(
    replica: Replica, traffic: Traffic
) -> None:
    fluid = Fluid(replica, traffic)
    together = replica.step_tokens // PROMPT
    step = floor(
        replica.shape, prefill(together, PROMPT), replica.accelerator, replica.numbers
    ).seconds
    assert fluid.busy_s.max() == pytest.approx(step / together)
    assert fluid.busy_s.max() < fluid.prefill_s.max()


def test_the_same_seed_gives_the_same_plan(replica: Replica, varied: Traffic) -> None:
    one, two = (Fluid(replica, varied, seed=7).highest_rate(SLO) for _ in range(2))
    assert one == two


def test_utilisations_grow_with_the_rate_and_none_is_beyond_all_at_one_that_is_met(
    replica: Replica, varied: Traffic
) -> None:
    fluid = Fluid(replica, varied)
    rate = fluid.highest_rate(SLO)
    assert rate
    low, high = fluid.utilisations(rate / 2), fluid.utilisations(rate)
    assert all(low[name] < high[name] <= 1 for name in high)
