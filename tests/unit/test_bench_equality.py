"""Greedy answers set beside each other."""

from __future__ import annotations

import pytest

from slimgpt_bench.equality import Reference, compare, first_difference, noise, tie_limit

STEP = {7: -1.0, 8: -1.0005, 9: -2.0}
REFERENCE = Reference((7, 7, 7), (STEP,) * 3)


def test_equal_answers_have_no_difference():
    assert first_difference(0, REFERENCE, [7, 7, 7]) is None
    found = compare([REFERENCE] * 2, [[[7, 7, 7]] * 2] * 3, limit=1e-3)
    assert (found.identical, found.ties, found.differences) == (2, (), ())


def test_only_the_first_difference_counts_as_what_follows_has_another_beginning():
    left = first_difference(3, REFERENCE, [7, 8, 1])
    assert left
    assert (left.prompt, left.position, left.expected, left.found) == (3, 1, 7, 8)
    assert left.margin == pytest.approx(0.0005)
    assert left.is_tie(1e-3)
    assert not left.is_tie(1e-4)


def test_a_token_that_is_not_among_the_likeliest_is_never_a_tie():
    left = first_difference(0, REFERENCE, [5, 7, 7])
    assert left
    assert left.bounded
    assert left.margin == pytest.approx(1.0)
    assert not left.is_tie(100)


def test_the_worst_run_of_a_prompt_counts():
    runs = [[[7, 8, 7]], [[7, 7, 7]], [[7, 9, 7]], [[7, 8, 7]]]
    found = compare([REFERENCE], runs, limit=1e-3)
    assert (found.identical, len(found.ties), len(found.differences)) == (0, 0, 1)
    assert found.to_json()["first_difference"]["found"] == 9


def test_answers_of_another_length_are_a_mistake_of_the_benchmark():
    with pytest.raises(ValueError, match="shorter"):
        first_difference(0, REFERENCE, [7, 7])


def test_rounding_widens_a_tie_in_sixteen_bits_alone():
    measured = noise([[-1.0, -2.0]], [[-1.01, -1.98]])
    assert measured == pytest.approx(0.02)
    assert tie_limit("float32", measured) == 1e-3
    assert tie_limit("bfloat16", measured) == pytest.approx(0.04)
    assert tie_limit("bfloat16", 0.0) == 1e-3
