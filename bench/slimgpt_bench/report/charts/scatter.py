"""Quality against size: one mark a model, named beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimgpt_bench.report.blocks import Chart, Series
from slimgpt_bench.report.drawing import WIDTH, area, marker, svg, text, x_axis, y_axis
from slimgpt_bench.report.scales import linear

_LEFT, _HEIGHT, _LONGEST = 58, 270, 26
_NAME, _LINE = 170, 15
"""Room that a name takes."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A model: its name, where it stands, and how it is drawn."""

    series: Series
    x: float
    y: float


def scatter(key: str, heading: str, x_name: str, y_name: str, spots: Sequence[Spot]) -> Chart:
    """The chart; names stand on the side where there is room."""
    (left, right), (bottom, top) = area(_LEFT, _HEIGHT)
    x = linear([s.x for s in spots], left + 10, right - 10)
    y = linear([s.y for s in spots], bottom, top)
    parts = [y_axis(y, left, y_name), x_axis(x, bottom, x_name)]
    taken: list[tuple[float, float]] = []
    for spot in spots:
        at_x, at_y = x.at(spot.x), y.at(spot.y)
        before = at_x > (left + WIDTH) / 2
        name = spot.series.name
        name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        parts.append(marker(at_x, at_y, spot.series.style, spot.series.shape))
        where = at_x + (-9 if before else 9), _free(at_x, at_y - 7, taken)
        taken.append((at_x, where[1]))
        parts.append(text(*where, name, "row", "end" if before else "start"))
    told = "; ".join(f"{s.series.name}: {s.x:.4g}, {s.y:.4g}" for s in spots)
    return Chart(heading, svg(key, heading, f"{y_name} over {x_name}. {told}.", parts, _HEIGHT))


def _free(x: float, y: float, taken: Sequence[tuple[float, float]]) -> float:
    """The first height upwards at which a name does not cover another."""
    while any(abs(x - a) < _NAME and abs(y - b) < _LINE for a, b in taken):
        y -= _LINE
    return y
