"""The ratio of mean accuracies and its bounds: what they mean, and where there are none."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgpt.evaluate.accuracy import FEWEST_EXAMPLES, AccuracyRatio, Answers, accuracy_ratio

Pair = tuple[Answers, Answers]
ONE_SIDED, TWO_SIDED = (NormalDist().inv_cdf(p) for p in (0.95, 0.975))


def draw(rng: np.random.Generator, n: int, both: float, model: float, baseline: float) -> Pair:
    """Answers of n examples that both, only the model, or only the baseline get right."""
    kind = rng.choice(4, size=n, p=[both, model, baseline, 1 - both - model - baseline])
    return np.isin(kind, [0, 1]).astype(float), np.isin(kind, [0, 2]).astype(float)


def bounds(found: AccuracyRatio) -> tuple[float, float, float]:
    assert found.ratio is not None
    assert found.lower is not None
    assert found.upper is not None
    return found.lower, found.ratio, found.upper


binary = st.integers(0, 1).map(float)
answered = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[st.lists(binary, min_size=n, max_size=n).map(np.array)] * 2)
)


@given(st.lists(answered, min_size=1, max_size=5), st.sampled_from([0.5, 0.8, 0.95, 0.999]))
@settings(max_examples=200, deadline=None)
def test_bounds_hold_the_ratio_or_are_explained(answers: list[Pair], confidence: float) -> None:
    found = accuracy_ratio(answers, confidence)
    assert found.n == sum(len(a) for a, _ in answers)
    assert found.tasks == len(answers)
    if found.why:
        assert (found.lower, found.upper, found.interval) == (None, None, None)
        return
    assert found.n >= FEWEST_EXAMPLES
    lower, ratio, upper = bounds(found)
    assert found.interval
    low, high = found.interval
    assert 0 <= low <= lower <= ratio <= upper <= high
    assert ratio == pytest.approx(found.mean / found.baseline_mean)


@given(st.lists(answered, min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_examples_and_of_tasks_does_not_count(answers: list[Pair], rnd) -> None:
    shuffled = []
    for a, b in rnd.sample(answers, len(answers)):
        order = rnd.sample(range(len(a)), len(a))
        shuffled.append((a[order], b[order]))
    one, other = accuracy_ratio(answers), accuracy_ratio(shuffled)
    assert one.ratio == (None if other.ratio is None else pytest.approx(other.ratio))
    assert one.lower == (None if other.lower is None else pytest.approx(other.lower))


def test_every_task_counts_alike() -> None:
    rng = np.random.default_rng(0)
    large, small = draw(rng, 900, 0.5, 0.1, 0.2), draw(rng, 100, 0.2, 0.2, 0.1)
    found = accuracy_ratio([large, small])
    assert found.mean == pytest.approx((large[0].mean() + small[0].mean()) / 2)
    assert found.baseline_mean == pytest.approx((large[1].mean() + small[1].mean()) / 2)


def test_the_deviation_is_the_bootstraps() -> None:
    rng = np.random.default_rng(1)
    answers = [draw(rng, n, 0.4, 0.1, 0.15) for n in (300, 500, 800)]
    ratios = []
    for _ in range(2000):
        picks = [rng.integers(len(a), size=len(a)) for a, _ in answers]
        means = np.mean(
            [(a[i].mean(), b[i].mean()) for (a, b), i in zip(answers, picks, strict=True)], axis=0
        )
        ratios.append(means[0] / means[1])
    lower, _, upper = bounds(accuracy_ratio(answers))
    assert (upper - lower) / (2 * ONE_SIDED) == pytest.approx(np.std(ratios), rel=0.06)


@pytest.mark.parametrize(
    ("n", "shares"),
    [
        (50, (0.55, 0.05, 0.05)),
        (50, (0.27, 0.01, 0.03)),
        (100, (0.57, 0.01, 0.03)),
        (200, (0.25, 0.1, 0.15)),
    ],
    ids=["few", "few that differ", "one-sided losses", "many that differ"],
)
def test_bounds_cover_the_truth_as_often_as_they_say(
    n: int, shares: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(2)
    both, model, baseline = shares
    truth = (both + model) / (both + baseline)
    runs = [accuracy_ratio([draw(rng, n, *shares) for _ in range(3)]) for _ in range(1500)]
    lower, upper, inside = 0, 0, 0
    for found in runs:
        assert found.interval
        low, _, high = bounds(found)
        lower += low <= truth
        upper += truth <= high
        inside += found.interval[0] <= truth <= found.interval[1]
    assert min(lower, upper, inside) / len(runs) > 0.93


def test_pairing_narrows_the_bounds() -> None:
    rng = np.random.default_rng(3)
    a, b = draw(rng, 1000, 0.5, 0.02, 0.04)
    low, _, high = bounds(accuracy_ratio([(a, b)]))
    wide_low, _, wide_high = bounds(accuracy_ratio([(rng.permutation(a), b)]))
    assert high - low < 0.5 * (wide_high - wide_low)


def test_two_sided_bounds_are_wider_by_their_quantile() -> None:
    found = accuracy_ratio([draw(np.random.default_rng(4), 5000, 0.5, 0.05, 0.1)])
    low, _, high = bounds(found)
    assert found.interval
    width = found.interval[1] - found.interval[0]
    assert width / (high - low) == pytest.approx(TWO_SIDED / ONE_SIDED)


def test_models_that_answer_alike_are_not_proven_equal() -> None:
    margins = []
    for n in (30, 300, 3000):
        answers = (np.arange(n) % 2).astype(float)
        lower, ratio, upper = bounds(accuracy_ratio([(answers, answers)]))
        assert lower < ratio == 1 < upper
        margins.append(1 - lower)
    assert margins[0] > 0.09
    assert margins[0] > 8 * margins[1] > 64 * margins[2]


@pytest.mark.parametrize("n", [1, FEWEST_EXAMPLES // 2 - 1])
def test_few_examples_give_no_bounds(n: int) -> None:
    ones = np.ones(n)
    found = accuracy_ratio([(ones, ones), (ones, ones)])
    assert found.ratio == 1
    assert (found.lower, found.upper, found.interval) == (None, None, None)
    assert found.why == f"too few examples: {2 * n}, of at least {FEWEST_EXAMPLES}"


def test_a_baseline_without_a_right_answer_gives_no_ratio() -> None:
    found = accuracy_ratio([(np.ones(500), np.zeros(500))])
    assert (found.ratio, found.lower, found.upper) == (None, None, None)
    assert found.why == "the baseline has no right answer"


def test_a_baseline_that_may_know_nothing_gives_no_bounds() -> None:
    baseline = np.zeros(500)
    baseline[0] = 1
    found = accuracy_ratio([(np.ones(500), baseline)])
    assert found.ratio == pytest.approx(500)
    assert found.lower is None
    assert found.why == "the baseline's accuracy can't be told from 0"


def test_the_record_says_what_was_computed() -> None:
    found = accuracy_ratio([draw(np.random.default_rng(5), 200, 0.5, 0.05, 0.1)], 0.9)
    record = found.to_json()
    assert record["metric"] == "acc"
    assert (record["confidence"], record["tasks"], record["n"]) == (0.9, 1, 200)
    assert record["interval"] == list(found.interval or ())
    assert record["why"] is None


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, float("nan")])
def test_a_confidence_that_is_none(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence of"):
        accuracy_ratio([(np.ones(50), np.ones(50))], confidence)


@pytest.mark.parametrize("answers", [[], [(np.ones(0), np.ones(0))], [(np.ones(40), np.ones(41))]])
def test_answers_that_do_not_pair(answers: list[Pair]) -> None:
    with pytest.raises(ValueError, match="the same examples"):
        accuracy_ratio(answers)
