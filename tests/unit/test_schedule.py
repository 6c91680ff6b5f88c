"""The curves against the paper's numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimgpt.schedule import SCHEDULES, curve, default_first_layer_ratio, layer_ratios


@pytest.mark.parametrize(
    ("layers", "mean"), [(32, 0.7354), (28, 0.7276), (40, 0.7477), (60, 0.7678), (80, 0.7807)]
)
def test_log_curve_has_the_mean_of_equation_6(layers, mean):
    assert sum(curve("log", layers)) / layers == pytest.approx(mean, abs=5e-5)


@pytest.mark.parametrize(("ratio", "last"), [(0.25, 0.317), (0.33, 0.426), (0.5, 0.657)])
def test_last_ratio_of_a_32_layer_model(ratio, last):
    assert layer_ratios("log", ratio, 1 / 16, [1] * 32)[-1] == pytest.approx(last, abs=1e-3)


def test_the_papers_recipe_removes_its_20_percent():
    ratios = layer_ratios("log", 0.2004, 0.0625, [1] * 32)
    assert ratios[0] == 0.0625
    assert ratios[-1] == pytest.approx(0.25, abs=1e-3)


@given(
    schedule=st.sampled_from(SCHEDULES),
    ratio=st.floats(0, 0.6),
    weights=st.lists(st.integers(1, 1000), min_size=2, max_size=40),
)
def test_weighted_mean_is_the_target(schedule, ratio, weights):
    ratios = layer_ratios(schedule, ratio, default_first_layer_ratio(ratio), weights)
    removed = sum(r * w for r, w in zip(ratios, weights, strict=True))
    assert removed == pytest.approx(ratio * sum(weights), abs=1e-9 * sum(weights))


def test_decreasing_schedules_mirror_the_increasing_ones():
    for kind in ("log", "linear"):
        assert curve(f"{kind}-decrease", 7) == curve(kind, 7)[::-1]


def test_default_start_is_the_papers_and_stays_below_small_targets():
    assert default_first_layer_ratio(0.2) == default_first_layer_ratio(0.5) == 1 / 16
    assert default_first_layer_ratio(0.1) < 0.1
    assert default_first_layer_ratio(0) == 0
