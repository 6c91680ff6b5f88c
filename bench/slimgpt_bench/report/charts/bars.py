"""Widths of every layer: what was kept, before what there was."""

from __future__ import annotations

from collections.abc import Sequence

from slimgpt_bench.report.blocks import Chart
from slimgpt_bench.report.drawing import area, box, svg, x_axis, y_axis
from slimgpt_bench.report.scales import Scale, linear

_LEFT, _HEIGHT = 58, 210
_MOST_TICKS = 8
_STEPS = (1, 2, 4, 5, 8, 10, 16, 20, 50, 100, 1000, 10**9)


def widths(key: str, heading: str, unit: str, kept: Sequence[int], dense: Sequence[int]) -> Chart:
    """Bars, one a layer.

    Args:
        key: unique on the page.
        heading: above the drawing.
        unit: what is counted.
        kept: width of each layer.
        dense: width of each layer before; empty where it is not known.
    """
    (left, right), (bottom, top) = area(_LEFT, _HEIGHT)
    y = linear([*kept, *dense, 1], bottom, top, zero=True)
    room = (right - left) / len(kept)
    parts = [y_axis(y, left, unit)]
    for i in range(len(kept)):
        x, wide = left + room * (i + 0.1), room * 0.8
        if i < len(dense):
            parts.append(box(x, y.at(dense[i]), wide, bottom - y.at(dense[i]), "before"))
        parts.append(box(x, y.at(kept[i]), wide, bottom - y.at(kept[i]), "kept"))
    parts.append(_layers(len(kept), left, room, bottom))
    return Chart(heading, svg(key, heading, _said(unit, kept, dense), parts, _HEIGHT))


def layer_scale(count: int, left: float, right: float) -> Scale:
    """Places of layers along an axis, with as many named as there is room for."""
    step = next(s for s in _STEPS if count <= s * _MOST_TICKS)
    ticks = tuple(float(i) for i in range(0, count, step))
    return Scale(-0.5, count - 0.5, left, right, False, ticks)


def _layers(count: int, left: float, room: float, bottom: float) -> str:
    scale = layer_scale(count, left, left + room * count)
    return x_axis(scale, bottom, "layer")


def _said(unit: str, kept: Sequence[int], dense: Sequence[int]) -> str:
    low, high = min(kept), max(kept)
    span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    before = f", of {max(dense):,} before" if dense else ""
    return f"Bars for {len(kept)} layers: {span} {unit}{before}; {sum(kept):,} in all."
