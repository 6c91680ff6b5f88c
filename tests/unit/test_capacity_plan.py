"""Replicas, money and what is saved: arithmetic that has to add up."""

from pathlib import Path

import pytest

from slimgpt_bench.accelerators import find
from slimgpt_bench.capacity.difference import difference
from slimgpt_bench.capacity.fluid import EFFICIENCY
from slimgpt_bench.capacity.money import YEAR_HOURS
from slimgpt_bench.capacity.number import Bounds, Number
from slimgpt_bench.capacity.plan import Margins, make_plan, needed
from slimgpt_bench.capacity.rate import Rate
from slimgpt_bench.capacity.replica import Wishes
from slimgpt_bench.capacity.side import Side, Terms, plan_side
from slimgpt_bench.capacity.traffic import Traffic, read_traffic
from slimgpt_bench.slo import read_slo
from tests.capacity_plans import LLAMA_8B, PRUNED_8B, write_checkpoint, write_slo, write_traffic


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return read_traffic(write_traffic(tmp_path / "t.yaml", rate_rps=10, growth=0.2))


def _rate(lower: float | None, point: float | None, upper: float | None) -> Rate:
    return Rate(Bounds(*(Number(x, "requests/s", "modelled", "") for x in (lower, point, upper))))


def test_replicas_are_demand_over_rate_and_spares(traffic: Traffic) -> None:
    plan = make_plan(traffic, _rate(2, 3, 4), Margins(headroom=0.5, spares=2), degree=4)
    assert plan.demand.value == pytest.approx(10 * 1.2 * 1.5)
    counts = [x.value for x in (plan.replicas.lower, plan.replicas.point, plan.replicas.upper)]
    assert counts == [5 + 2, 6 + 2, 9 + 2]
    assert plan.accelerators.upper.value == 4 * 11


def test_rounding_of_a_computer_buys_no_replica() -> None:
    assert needed(0.1 + 0.2, 0.3) == 1
    assert needed(12 * 1.2, 1.2) == 12
    assert needed(12.01, 12) == 2
    assert needed(0.0, 5) == 1


def test_what_is_not_known_stays_unknown(traffic: Traffic) -> None:
    plan = make_plan(traffic, _rate(None, 3, None), Margins(), degree=1)
    told = plan.to_json()
    assert told["replicas"]["upper"]["value"] == "insufficient"
    assert told["replicas"]["lower"]["value"] == "insufficient"
    assert told["planned_replicas"]["value"] == told["replicas"]["point"]["value"] == 6


def test_what_each_bears_fits_the_rate_that_was_planned_with(traffic: Traffic) -> None:
    plan = make_plan(traffic, _rate(None, 3, None), Margins(), degree=1)
    assert plan.per_replica_rps.value is not None
    assert plan.per_replica_rps.value <= 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    shapes = {"dense": LLAMA_8B, "pruned": PRUNED_8B}
    return {name: write_checkpoint(root / name, shape) for name, shape in shapes.items()}


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    traffic = write_traffic(
        tmp_path / "t.yaml",
        rate_rps=None,
        hours=[
            {"from": 0, "to": 12, "rate_rps": 20},
            {"from": 12, "to": 24, "rate_rps": 200},
        ],
        price_per_accelerator_hour=2.0,
    )
    return Terms(
        read_traffic(traffic),
        read_slo(write_slo(tmp_path / "s.yaml", ttft_s=0.5, tpot_s=0.05)),
        find("l40s"),
        Wishes(),
        Margins(),
        EFFICIENCY,
        0,
    )


def _side(models: dict[str, Path], name: str, terms: Terms) -> Side:
    return plan_side(models[name], (), "--evidence", terms)


def test_a_year_costs_every_accelerator_every_hour(models: dict[str, Path], terms: Terms) -> None:
    side = _side(models, "dense", terms)
    assert side.money
    count = side.plan.planned_accelerators.value
    assert side.money.a_year.point.value == pytest.approx((count or 0) * 2.0 * YEAR_HOURS)


def test_replicas_that_follow_the_hours_cost_less(models: dict[str, Path], terms: Terms) -> None:
    money = _side(models, "dense", terms).money
    assert money
    assert money.following
    assert 0 < (money.following.value or 0) < (money.a_year.point.value or 0)


def test_the_prices_of_tokens_pay_for_everything(models: dict[str, Path], terms: Terms) -> None:
    side = _side(models, "dense", terms)
    assert side.money
    prompt, output = side.fluid.sample.mean(axis=0)
    a_year = terms.traffic.mean_rps * 3600 * YEAR_HOURS / 1e6
    paid = {k: (v.value or 0) * a_year for k, v in side.money.a_million.items()}
    whole = side.money.a_year.point.value
    assert paid["input"] * prompt + paid["output"] * output == pytest.approx(whole)
    assert paid["all"] * (prompt + output) == pytest.approx(whole)


def test_without_a_price_no_money_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    terms = Terms(
        read_traffic(write_traffic(tmp_path / "t.yaml")),
        read_slo(write_slo(tmp_path / "s.yaml")),
        find("h200"),
        Wishes(),
        Margins(),
        EFFICIENCY,
        0,
    )
    side = _side(models, "dense", terms)
    assert side.money is None
    assert difference(side, side)["money_per_year"] is None


def test_the_pruned_model_needs_fewer_and_the_difference_is_between_the_plans(
    models: dict[str, Path], terms: Terms
) -> None:
    dense, pruned = (_side(models, x, terms) for x in ("dense", "pruned"))
    found = difference(dense, pruned)
    saved = (dense.plan.planned.value or 0) - (pruned.plan.planned.value or 0)
    assert saved > 0
    assert found["accelerators"]["point"]["value"] == saved
    assert found["money_per_year"]["point"]["value"] == pytest.approx(saved * 2 * YEAR_HOURS)
    assert found["accelerators"]["lower"]["value"] == "insufficient"  # nothing was measured


def test_a_model_saves_nothing_against_itself(models: dict[str, Path], terms: Terms) -> None:
    side = _side(models, "dense", terms)
    assert difference(side, side)["accelerators"]["point"]["value"] == 0


def test_what_binds_is_a_resource_or_a_bound_of_the_slo(
    models: dict[str, Path], terms: Terms
) -> None:
    told = _side(models, "dense", terms).to_json(terms.slo)["plan"]["binding"]
    names = {"prefill compute", "decode bandwidth", "KV capacity", "max sequences"}
    assert told["value"] in names | {"the bound ttft_s", "the bound tpot_s"}
    assert told["label"] == "modelled"
