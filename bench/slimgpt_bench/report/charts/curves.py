"""Something over layers or over the offered load, one curve a series, intervals upright."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimgpt_bench.report.blocks import Chart, Series
from slimgpt_bench.report.charts.bars import layer_scale
from slimgpt_bench.report.drawing import (
    WIDTH,
    area,
    line,
    marker,
    path,
    svg,
    text,
    whisker,
    x_axis,
    y_axis,
)
from slimgpt_bench.report.scales import Scale, fitting, linear

_LEFT, _HEIGHT = 58, 270


@dataclass(frozen=True, slots=True)
class Dot:
    """A measured value.

    Attributes:
        x: where.
        y: the value.
        ends: of its interval; None without one.
        flagged: drawn as a cross: the level was saturated, or the run is not valid.
    """

    x: float
    y: float
    ends: tuple[float, float] | None = None
    flagged: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn of a series, from left to right."""

    series: Series
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a chart says beside its curves.

    Attributes:
        key: unique on the page.
        heading: above the drawing.
        y: name of the values, with their unit.
        x: name of where they are.
        bound: a value that is to be met; None without one.
        bound_name: what it is called.
        layers: x counts layers; their number.
        share: y goes from zero to one.
    """

    key: str
    heading: str
    y: str
    x: str
    bound: float | None = None
    bound_name: str = ""
    layers: int = 0
    share: bool = False


def curves(frame: Frame, drawn: Sequence[Curve]) -> Chart:
    """The chart."""
    (left, right), (bottom, top) = area(_LEFT, _HEIGHT)
    y = _values(frame, drawn, bottom, top)
    x = _places(frame, drawn, left, right)
    parts = [y_axis(y, left, frame.y), x_axis(x, bottom, frame.x)]
    for curve in drawn:
        parts += _drawn(curve, x, y)
    if frame.bound is not None and y.low <= frame.bound <= y.high:
        at = y.at(frame.bound)
        parts.append(line(left, at, WIDTH - 14, at, "bound"))
        parts.append(_name_of_bound(frame.bound_name, at, left, _seen(drawn, x, y)))
    return Chart(frame.heading, svg(frame.key, frame.heading, _said(frame, drawn), parts, _HEIGHT))


def _seen(drawn: Sequence[Curve], x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x.at(d.x), y.at(d.y)) for c in drawn for d in c.dots]


def _name_of_bound(name: str, at: float, left: float, dots: Sequence[tuple[float, float]]) -> str:
    """Above its line or below, right or left: where it covers no value, else right and above."""
    room = len(name) * 8.0
    for start, end, anchor in (
        (WIDTH - 16 - room, WIDTH - 16.0, "end"),
        (left, left + room, "start"),
    ):
        for y, low, high in ((at - 6, at - 22, at), (at + 15, at, at + 20)):
            if not any(start - 12 < a < end + 12 and low - 6 < b < high + 6 for a, b in dots):
                return text(end if anchor == "end" else start + 4, y, name, "bound-name", anchor)
    return text(WIDTH - 16, at - 6, name, "bound-name", "end")


def _drawn(curve: Curve, x: Scale, y: Scale) -> list[str]:
    style = curve.series.style
    places = [(x.at(d.x), y.at(d.y)) for d in curve.dots]
    dashed = " dashed" if curve.series.plain else ""
    parts = [path(places, f"curve {style}{dashed}")] if len(places) > 1 else []
    for dot, (at_x, at_y) in zip(curve.dots, places, strict=True):
        if dot.ends:
            ends = y.at(dot.ends[0]), y.at(dot.ends[1])
            parts.append(whisker(at_x, ends[0], at_x, ends[1], f"whisker {style}"))
        parts.append(marker(at_x, at_y, style, "cross" if dot.flagged else curve.series.shape))
    return parts


def _values(frame: Frame, drawn: Sequence[Curve], bottom: float, top: float) -> Scale:
    if frame.share:
        return linear([0.0, 1.0], bottom, top, zero=True)
    found = [v for c in drawn for d in c.dots for v in (d.y, *(d.ends or ()))]
    return fitting([*found, *([frame.bound] if frame.bound is not None else [])], bottom, top)


def _places(frame: Frame, drawn: Sequence[Curve], left: float, right: float) -> Scale:
    if frame.layers:
        return layer_scale(frame.layers, left, right)
    return linear([d.x for c in drawn for d in c.dots], left + 12, right - 6, zero=True)


def _said(frame: Frame, drawn: Sequence[Curve]) -> str:
    parts = []
    for curve in drawn:
        if curve.dots:
            low, high = (f(d.y for d in curve.dots) for f in (min, max))
            parts.append(
                f"{curve.series.name}: {len(curve.dots)} values from {low:.3g} to {high:.3g}"
            )
    bound = f" {frame.bound_name}." if frame.bound is not None else ""
    return f"{frame.y} over {frame.x}. {'; '.join(parts)}.{bound}"
