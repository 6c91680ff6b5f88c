r"""Is a model as accurate as the one it was made from? The ratio of mean accuracies, with bounds.

Over tasks k = 1..K with examples i = 1..n_k, answered by both models (a_ki and b_ki, right 1 or
wrong 0), A = mean_k mean_i a_ki, B likewise, R = A / B. By the delta method (Casella and Berger,
Statistical Inference, 5.5.4), examples being paired within a task and tasks independent,

    var(R) = 1/B^2 (var A - 2 R cov(A, B) + R^2 var B) = 1/(K B)^2 sum_k var_i(a_ki - R b_ki) / n_k

Where two models hardly differ, few examples tell them apart and that variance is too small, or
zero. So each task gets half an example more of each kind (both right, one right, none right)
before A, B and var are formed, as Agresti and Min (Statistics in Medicine 24, 2005) do for matched
proportions. Simulated coverage of the one-sided 95 % bounds is 92 to 100 % from 30 examples up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float

FEWEST_EXAMPLES = 30
_KINDS = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
_WEIGHT_OF_KIND = 0.5

Answers = Float[np.ndarray, "examples"]


@dataclass(frozen=True, slots=True)
class AccuracyRatio:
    """Mean accuracy of a model relative to its baseline's.

    Attributes:
        mean: over the tasks, each counting alike.
        baseline_mean: of the baseline.
        confidence: of each of the three statements below.
        tasks: how many.
        n: examples in all.
        ratio: mean / baseline_mean; None where the baseline has no right answer.
        lower: one-sided bound: the true ratio is above it.
        upper: one-sided bound: the true ratio is below it.
        interval: two-sided: the true ratio is in it.
        why: why there are no bounds; None where there are.
    """

    mean: float
    baseline_mean: float
    confidence: float
    tasks: int
    n: int
    ratio: float | None = None
    lower: float | None = None
    upper: float | None = None
    interval: tuple[float, float] | None = None
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The ``accuracy`` entry of a judgement."""
        interval = list(self.interval) if self.interval else None
        return {"metric": "acc", **asdict(self), "interval": interval}


def accuracy_ratio(
    answers: Sequence[tuple[Answers, Answers]], confidence: float = 0.95
) -> AccuracyRatio:
    """The ratio and its bounds; see the module for the formula.

    Args:
        answers: for each task, 1 for right and 0 for wrong, of the model and of its baseline on the
            same examples in the same order. Shares between 0 and 1 are fine too.
        confidence: at least 0.5, below 1.

    Raises:
        ValueError: no task, an empty one, lengths that differ, or such a confidence.
    """
    if not 0.5 <= confidence < 1:
        raise ValueError(f"a confidence of {confidence} is not from 0.5 to below 1")
    if not answers or any(len(a) != len(b) or not len(a) for a, b in answers):
        raise ValueError("both models must have answered the same examples of at least one task")
    found = AccuracyRatio(
        mean=float(np.mean([a.mean() for a, _ in answers])),
        baseline_mean=float(np.mean([b.mean() for _, b in answers])),
        confidence=confidence,
        tasks=len(answers),
        n=sum(len(a) for a, _ in answers),
    )
    if found.baseline_mean == 0:
        return replace(found, why="the baseline has no right answer")
    ratio = found.mean / found.baseline_mean
    found = replace(found, ratio=ratio)
    if found.n < FEWEST_EXAMPLES:
        return replace(found, why=f"too few examples: {found.n}, of at least {FEWEST_EXAMPLES}")
    centre, deviation, strength = _delta(answers)
    two_sided = NormalDist().inv_cdf((1 + confidence) / 2)
    if strength <= two_sided:
        return replace(found, why="the baseline's accuracy can't be told from 0")
    lower, upper = _around(ratio, centre, NormalDist().inv_cdf(confidence) * deviation)
    interval = _around(ratio, centre, two_sided * deviation)
    return replace(found, lower=lower, upper=upper, interval=interval)


def _around(ratio: float, centre: float, reach: float) -> tuple[float, float]:
    """Bounds around the stabilised centre; what was observed is never outside."""
    return max(0.0, min(ratio, centre - reach)), max(ratio, centre + reach)


def _delta(answers: Sequence[tuple[Answers, Answers]]) -> tuple[float, float, float]:
    """R with the added examples, its standard deviation, and B in its own standard deviations."""
    counted = [_with_kinds(a, b) for a, b in answers]
    means = np.array([weights @ pairs for pairs, weights, _ in counted]).mean(axis=0)
    ratio = float(means[0] / means[1])
    contrast = np.array([[1.0, -ratio], [0.0, 1.0]])  # a - R b, and b alone
    variances = np.zeros(2)
    for pairs, weights, size in counted:
        values = pairs @ contrast.T
        variances += weights @ (values - weights @ values) ** 2 / size
    deviations = np.sqrt(variances) / len(answers)
    return ratio, float(deviations[0] / means[1]), float(means[1] / deviations[1])


def _with_kinds(
    a: Answers, b: Answers
) -> tuple[Float[np.ndarray, "examples 2"], Float[np.ndarray, "examples"], float]:
    """Pairs with half an example of each kind added, their weights, and how many they count as."""
    pairs = np.concatenate([np.stack([a, b], axis=1).astype(float), _KINDS])
    size = len(a) + len(_KINDS) * _WEIGHT_OF_KIND
    weights = np.full(len(pairs), 1 / size)
    weights[len(a) :] *= _WEIGHT_OF_KIND
    return pairs, weights, size
