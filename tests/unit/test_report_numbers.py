"""Numbers as they are printed, and the axes that they are drawn on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimgpt_bench.report.scales import fitting, linear
from slimgpt_bench.report.told import Unit, count, interval, number, percent, seconds_unit, size

VALUES = st.floats(1e-6, 1e9, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.021863, "0.0219"),
        (1.0, "1.00"),
        (100.0, "100"),
        (1250.4, "1,250"),
        (7, "7"),
        (0.0, "0"),
        (-7.0, "−7.00"),
        (-7358.2, "−7,358"),
        ("insufficient", "insufficient"),
        (None, "–"),
        (True, "–"),
    ],
)
def test_numbers_have_three_digits_and_what_is_none_is_no_number(value, shown):
    assert number(value) == shown


def test_an_interval_that_is_missing_says_so():
    assert interval("insufficient") == "insufficient"
    assert interval(None) == "–"
    assert interval([0.0211, 0.0226], Unit(1e-3, "ms")) == "[21.1, 22.6]"


@pytest.mark.parametrize(
    ("values", "table", "axis"),
    [([2.4, 0.039], "ms", "s"), ([1.2], "s", "s"), ([3e-4], "µs", "µs"), ([], "s", "s")],
)
def test_units_leave_digits_before_the_point(values, table, axis):
    assert seconds_unit(values).name == table
    assert seconds_unit(values, drawn=True).name == axis


def test_sizes_counts_and_shares():
    assert (size(13_476_831_232), size(None), size(0)) == ("12.6 GiB", "–", "0 B")
    assert (count(6_738_415_616), count(999)) == ("6.74 B", "999")
    assert percent(0.2468) == "24.7 %"


@given(st.lists(VALUES, min_size=1, max_size=20))
@pytest.mark.parametrize("scale", [linear, fitting])
def test_every_value_is_on_the_axis_and_in_order(scale, values):
    made = scale(values, 10.0, 400.0)
    places = [made.at(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(9.9 <= x <= 400.1 for x in places)
    assert all(math.isfinite(t) and made.low <= t <= made.high for t in made.ticks)
    assert 2 <= len(made.ticks) <= 40


def test_bars_begin_at_zero_and_far_values_are_logarithmic():
    assert linear([5.0, 6.0], 0, 1, zero=True).low == 0
    assert fitting([0.01, 10.0], 0, 1).logarithmic
    assert not fitting([1.0, 10.0], 0, 1).logarithmic


def test_ticks_are_named_in_full():
    made = linear([0.0, 0.3], 0, 1)
    assert [made.label(t) for t in made.ticks] == ["0", "0.1", "0.2", "0.3"]
