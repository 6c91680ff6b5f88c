"""Intervals and verdicts of the benchmarks."""

from __future__ import annotations

import random

import pytest

from slimgpt_bench.intervals import (
    mean_interval,
    paired_ratio,
    share_interval,
    student_factor,
    verdict,
)


@pytest.mark.parametrize(
    ("degrees", "factor"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (100, 1.9840)]
)
def test_students_factor_is_the_tables(degrees, factor):
    assert student_factor(degrees) == pytest.approx(factor, abs=1e-4)


def test_two_rounds_have_no_interval():
    assert mean_interval([1.0, 2.0]) is None
    ratio, interval = paired_ratio([2.0, 4.0], [1.0, 2.0])
    assert ratio == pytest.approx(2)
    assert interval is None
    assert share_interval([1, 2], [2, 3]) is None


def test_what_slows_a_whole_round_leaves_the_ratio_alone():
    machine = [1.0, 0.2, 5.0, 0.7]
    ratio, interval = paired_ratio([1.5 * x for x in machine], machine)
    assert ratio == pytest.approx(1.5)
    assert interval == pytest.approx((1.5, 1.5))


def test_nineteen_of_twenty_intervals_hold_the_truth():
    draw = random.Random(0)
    held = 0
    for _ in range(1000):
        interval = mean_interval([draw.gauss(3, 2) for _ in range(5)])
        assert interval
        held += interval[0] <= 3 <= interval[1]
    assert 930 <= held <= 970


def test_a_share_lies_in_its_interval_and_equal_groups_have_a_narrow_one():
    low, high = share_interval([1, 3, 2, 0], [4, 4, 4, 4]) or (1, 0)
    assert 0 <= low < 6 / 16 < high <= 1
    assert share_interval([2, 2, 2], [4, 4, 4]) == (0.5, 0.5)
    assert share_interval([1, 2, 4], [2, 4, 8]) == (0.5, 0.5)


@pytest.mark.parametrize("groups", [3, 5, 16])
def test_few_answers_of_unlike_length_have_intervals_that_hold_the_truth(groups):
    draw = random.Random(0)
    held = 0
    for _ in range(1000):
        wholes = [draw.randint(40, 60) for _ in range(groups)]
        parts = [round(n * min(1, max(0, draw.gauss(0.5, 0.1)))) for n in wholes]
        interval = share_interval(parts, wholes)
        assert interval
        held += interval[0] <= 0.5 <= interval[1]
    assert 925 <= held <= 975


def test_a_draft_of_nothing_has_no_share():
    assert share_interval([0, 0, 0], [0, 0, 0]) is None


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ((1.05, 1.2), "faster"),
        ((1.001, 1.5), "faster"),
        ((0.5, 0.99), "slower"),
        ((0.99, 1.01), "no difference"),
        ((0.9, 1.1), "unresolved"),
        (None, "unresolved"),
    ],
)
def test_a_verdict_is_read_off_the_interval(interval, says):
    assert verdict(interval) == says
