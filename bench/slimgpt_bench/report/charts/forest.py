"""Values with intervals, one row each, against a value that they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimgpt_bench.report.blocks import Chart, Series
from slimgpt_bench.report.drawing import WIDTH, area, line, marker, svg, text, whisker, x_axis
from slimgpt_bench.report.scales import fitting, linear

_LEFT, _ROW, _LANE, _EDGES, _TOP = 132, 18, 16, 62, 18


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a row; without an interval for want of samples, a cross if it is not valid."""

    series: Series
    value: float
    ends: tuple[float, float] | None
    flagged: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Values of the same thing.

    Attributes:
        name: of it.
        entries: one for each series, top to bottom.
    """

    name: str
    entries: tuple[Entry, ...]


def forest(
    key: str, heading: str, unit: str, rows: Sequence[Row], reference: float | None = None
) -> Chart:
    """The chart.

    Args:
        key: unique on the page.
        heading: above the drawing.
        unit: of the values, below them.
        rows: at least one, with at least one value.
        reference: drawn as an upright line; the axis then need not begin at zero.
    """
    lanes = max(len(row.entries) for row in rows)
    height = _EDGES + len(rows) * (_ROW + lanes * _LANE)
    (left, right), (bottom, _) = area(_LEFT, height)
    top = _TOP
    values = [v for r in rows for e in r.entries for v in (e.value, *(e.ends or ()))]
    scale = (
        fitting(values, left, right)
        if reference is None
        else linear([*values, reference], left, right)
    )
    parts = [x_axis(scale, bottom, unit, grid_from=top - 8)]
    if reference is not None:
        parts.append(line(scale.at(reference), top - 14, scale.at(reference), bottom, "reference"))
    for i, row in enumerate(rows):
        y = top + i * (_ROW + lanes * _LANE)
        middle = y + (lanes * _LANE) / 2
        parts.append(text(0, middle + 4, row.name, "row"))
        if i:
            parts.append(line(0, y - _ROW / 2, WIDTH - 14, y - _ROW / 2, "rule"))
        for lane, entry in enumerate(row.entries):
            at = y + (lane + 0.5) * _LANE
            if entry.ends:
                low, high = scale.at(entry.ends[0]), scale.at(entry.ends[1])
                parts.append(whisker(low, at, high, at, f"whisker {entry.series.style}"))
            shape = "cross" if entry.flagged else entry.series.shape
            parts.append(marker(scale.at(entry.value), at, entry.series.style, shape))
    return Chart(heading, svg(key, heading, _said(rows, unit), parts, height))


def _said(rows: Sequence[Row], unit: str) -> str:
    parts = []
    for row in rows:
        for entry in row.entries:
            ends = (
                f", 95 % interval {entry.ends[0]:.3g} to {entry.ends[1]:.3g}" if entry.ends else ""
            )
            flag = ", not valid" if entry.flagged else ""
            parts.append(f"{row.name}, {entry.series.name}: {entry.value:.3g}{ends}{flag}")
    return f"{unit}. {'; '.join(parts)}."
