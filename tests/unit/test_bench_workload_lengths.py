"""How long prompts and answers are, and when requests arrive."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimgpt.errors import UsageError
from slimgpt_bench.workload.arrivals import Arrivals
from slimgpt_bench.workload.lengths import Lengths

DRAWS = 50_000


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- lengths ------------------------------------------------------------------------------------

SPELLED = {
    "128": (128.0, 0.0),
    "fixed:128": (128.0, 0.0),
    "64:256": (160.0, 193 / math.sqrt(12)),
    "uniform:64,256": (160.0, 193 / math.sqrt(12)),
    "normal:512,100": (512.0, 100.0),
    "lognormal:512,256": (512.0, 256.0),
}


@pytest.mark.parametrize("text", SPELLED)
def test_lengths_have_the_mean_and_spread_that_they_tell(text):
    mean, deviation = SPELLED[text]
    lengths = Lengths.parse(text)
    drawn = lengths.draw(_rng(), DRAWS)
    assert lengths.mean == pytest.approx(mean, rel=0.01)
    assert drawn.mean() == pytest.approx(mean, rel=0.01)
    assert drawn.std() == pytest.approx(deviation, rel=0.03, abs=0.5)


@pytest.mark.parametrize("text", [*SPELLED, "lognormal:512,256,10,600"])
def test_quantiles_are_those_of_what_is_drawn(text):
    lengths = Lengths.parse(text)
    drawn = lengths.draw(_rng(1), DRAWS)
    for share in (0.05, 0.5, 0.95, 0.99):
        assert np.quantile(drawn, share) == pytest.approx(lengths.quantile(share), rel=0.03)
    assert drawn.max() <= lengths.quantile(1)


def test_uniform_lengths_take_both_ends():
    drawn = Lengths.parse("3:5").draw(_rng(), 1000)
    assert set(drawn.tolist()) == {3, 4, 5}


def test_clipped_lengths_stay_within():
    drawn = Lengths.parse("normal:100,80,20,120").draw(_rng(), 1000)
    assert (drawn.min(), drawn.max()) == (20, 120)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_empirical_lengths_are_those_that_were_seen(values, seed):
    lengths = Lengths.empirical(values)
    assert set(lengths.draw(_rng(seed), 50).tolist()) <= set(values)
    assert lengths.mean == pytest.approx(np.mean(values))
    assert lengths.quantile(1) == max(values)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("many", "no lengths"),
        ("", "no lengths"),
        ("0", "whole numbers from 1"),
        ("1.5", "whole numbers from 1"),
        ("9:3", "the first end is beyond the second"),
        ("1:2:3", "no lengths"),
        ("zipf:3", "no lengths"),
        ("normal:512", "normal takes 2 or 4 numbers"),
        ("lognormal:0,1", "the mean is below 1"),
        ("lognormal:512,256,0,10", "whole numbers from 1"),
        ("nan", "lengths are from 1"),
        ("-3", "lengths are from 1"),
        ("20000000", "lengths are from 1"),
    ],
)
def test_lengths_that_are_none_are_refused(text, why):
    with pytest.raises(UsageError) as found:
        Lengths.parse(text, "--output")
    assert f"--output {text}: " in str(found.value)
    assert why in str(found.value)
    assert "give 128, 64:256" in str(found.value)


@pytest.mark.parametrize(("values", "why"), [([], "no rows"), ([3, 0], "a length of 0")])
def test_empirical_lengths_need_rows_of_lengths(values, why):
    with pytest.raises(UsageError, match=why):
        Lengths.empirical(values, "lengths.jsonl")


# -- arrivals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "burstiness", "variation"),
    [("poisson", 1.0, 1.0), ("gamma", 0.25, 2.0), ("gamma", 4.0, 0.5), ("constant", 1.0, 0.0)],
)
def test_arrivals_have_their_rate_and_burstiness(kind, burstiness, variation):
    times = list(islice(Arrivals(5.0, kind, burstiness).times(3), 20_000))
    gaps = np.diff(times)
    assert 1 / gaps.mean() == pytest.approx(5, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05, abs=1e-6)


def test_arrivals_are_their_seeds():
    process = Arrivals(2.0)
    first, again, other = (list(islice(process.times(seed), 2000)) for seed in (1, 1, 2))
    assert first == again != other
