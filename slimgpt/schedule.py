"""Pruning ratio per layer: the paper's incremental logarithmic curve and its rivals.

Source: SlimGPT (arXiv 2412.18110) eq. 6, r_i = r_0 + (r_{n-1} - r_0) * log(i + 1) / log(n), with
the linear, uniform and decreasing variants of its strategy ablation (table 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Literal, get_args

Schedule = Literal["log", "linear", "uniform", "log-decrease", "linear-decrease"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)

PAPER_FIRST_LAYER_RATIO = 1 / 16
"""r_0 of the paper's LLaMA-7B recipe: 2 of 32 heads, at a target of 20 %."""


def default_first_layer_ratio(ratio: float) -> float:
    """The paper's r_0, lowered for targets under its 20 % so that the curve stays increasing."""
    return min(PAPER_FIRST_LAYER_RATIO, ratio * PAPER_FIRST_LAYER_RATIO / 0.2)


def curve(schedule: str, layers: int) -> list[float]:
    """Position of each layer between the smallest ratio (0) and the largest (1).

    Args:
        schedule: one of :data:`SCHEDULES`.
        layers: n >= 1. The paper's code divides by log(32); eq. 6 has log(n), used here.
    """
    if layers == 1 or schedule == "uniform":
        return [1.0] * layers
    kind, _, direction = schedule.partition("-")
    if kind == "log":
        points = [log(i + 1) / log(layers) for i in range(layers)]
    elif kind == "linear":
        points = [i / (layers - 1) for i in range(layers)]
    else:
        raise ValueError(f"unknown schedule {schedule!r}, known: {', '.join(SCHEDULES)}")
    return points[::-1] if direction == "decrease" else points


def layer_ratios(schedule: str, ratio: float, first: float, weights: Sequence[int]) -> list[float]:
    """Ratios r_i whose mean, weighted by ``weights``, is ``ratio``.

    Args:
        schedule: one of :data:`SCHEDULES`.
        ratio: the target in [0, 1).
        first: the smallest ratio of the curve: the first layer's where it increases, the last
            layer's where it decreases; without effect on ``uniform``.
        weights: parameters of each layer.

    Returns:
        one ratio a layer; values outside [0, 1) mean that the target can't be met on this curve.
    """
    points = curve(schedule, len(weights))
    if schedule == "uniform" or len(weights) == 1:
        return [ratio] * len(weights)
    mean = sum(p * w for p, w in zip(points, weights, strict=True)) / sum(weights)
    largest = first + (ratio - first) / mean
    return [first + (largest - first) * p for p in points]
