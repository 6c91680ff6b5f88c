"""SVG drawings that follow the page: colours and type are its style sheet's, by class name.

Everything that is written into a drawing is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from slimgpt_bench.report.scales import Scale

WIDTH = 480
_TOP, _RIGHT, _BOTTOM = 34, 14, 44

Point = tuple[float, float]


def svg(
    key: str, title: str, description: str, parts: Iterable[str], height: float, width: int = WIDTH
) -> str:
    """A drawing with what a screen reader says of it.

    Args:
        key: unique on the page.
        title: its name.
        description: what it shows, in words.
        parts: of the functions below.
        height: in pixels.
        width: likewise.
    """
    return (
        f'<svg viewBox="0 0 {width} {height:g}" role="img" '
        f'aria-labelledby="{escape(key)}-t {escape(key)}-d">'
        f'<title id="{escape(key)}-t">{escape(title)}</title>'
        f'<desc id="{escape(key)}-d">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def area(left: float, height: float) -> tuple[Point, Point]:
    """Where the values go: places of the low and the high end of x and of y.

    Args:
        left: room for the labels of the y axis.
        height: of the whole drawing.
    """
    return (left, WIDTH - _RIGHT), (height - _BOTTOM, _TOP)


def text(x: float, y: float, words: str, classes: str = "", anchor: str = "start") -> str:
    """Words at a place."""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{classes}">{escape(words)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{classes}"/>'


def box(x: float, y: float, width: float, height: float, classes: str) -> str:
    """A rectangle."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{max(width, 0):g}" height="{max(height, 0):g}" '
        f'class="{classes}"/>'
    )


def path(points: Sequence[Point], classes: str) -> str:
    """A line through points."""
    steps = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
    return f'<path d="{steps}" class="{classes}"/>'


def marker(x: float, y: float, style: str, shape: str) -> str:
    """Shapes tell series apart where colours can't."""
    match shape:
        case "square":
            return box(x - 3.8, y - 3.8, 7.6, 7.6, f"mark {style}")
        case "diamond":
            return _polygon(((x, y - 5.5), (x + 5.5, y), (x, y + 5.5), (x - 5.5, y)), style)
        case "triangle":
            return _polygon(((x, y - 5), (x + 5, y + 4), (x - 5, y + 4)), style)
        case "cross":
            lines = f"M{x - 4:g} {y - 4:g} l8 8 m0 -8 l-8 8"
            return f'<path d="{lines}" class="stroke {style}"/>'
    kind = "hollow" if shape == "hollow" else "mark"
    return f'<circle cx="{x:g}" cy="{y:g}" r="4.2" class="{kind} {style}"/>'


def _polygon(corners: Sequence[Point], style: str) -> str:
    points = " ".join(f"{a:g},{b:g}" for a, b in corners)
    return f'<polygon points="{points}" class="mark {style}"/>'


def whisker(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """An interval, across or upright, with short ends."""
    across = y1 == y2
    dx, dy = (0, 3.5) if across else (3.5, 0)
    return "".join(
        (
            line(x1, y1, x2, y2, classes),
            line(x1 - dx, y1 - dy, x1 + dx, y1 + dy, classes),
            line(x2 - dx, y2 - dy, x2 + dx, y2 + dy, classes),
        )
    )


def y_axis(scale: Scale, left: float, name: str) -> str:
    """Lines across, their values, and above them what is measured."""
    right = WIDTH - _RIGHT
    parts = [text(0, _TOP - 20, name, "name")]
    for tick in scale.ticks:
        y = scale.at(tick)
        parts += [line(left, y, right, y, "grid")]
        parts += [text(left - 7, y + 4, scale.label(tick), "tick", "end")]
    return "".join(parts)


def x_axis(scale: Scale, bottom: float, name: str, *, grid_from: float | None = None) -> str:
    """Values below, and what they are; with ``grid_from`` lines upright from there."""
    middle = (scale.start + scale.end) / 2
    parts = [text(middle, bottom + 36, name, "name", "middle")]
    for tick in scale.ticks:
        x = scale.at(tick)
        if grid_from is not None:
            parts.append(line(x, grid_from, x, bottom, "grid"))
        parts.append(text(x, bottom + 18, scale.label(tick), "tick", "middle"))
    return "".join(parts)
