"""The picture of a card: widths of every layer, kept against dense. The one user of matplotlib."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.shape import LayerShape, ModelShape

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Okabe and Ito's blue on light grey: apart in hue and in lightness, also in print.
_KEPT, _DENSE, _EDGE = "#0072B2", "#E3E3E3", "#8C8C8C"
_DOTS_PER_INCH = 120
_INCHES = 9.0, 6.4
_MOST_TICKS = 20

_ROWS: tuple[tuple[str, Callable[[LayerShape], int]], ...] = (
    ("query heads", lambda layer: layer.query_heads),
    ("KV heads", lambda layer: layer.kv_heads),
    ("FFN neurons", lambda layer: layer.ffn),
)


def draw_widths(after: ModelShape, before: ModelShape | None, file: Path) -> None:
    """Writes a PNG of 1080 by 768 pixels; equal shapes give equal bytes on one machine.

    Args:
        after: the model.
        before: the dense model, drawn behind it; None where it is not known.
        file: to write.
    """
    with _own_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
        panels = figure.subplots(len(_ROWS), 1, sharex=True)
        for axes, (name, width) in zip(panels, _ROWS, strict=True):
            _draw(axes, name, [width(x) for x in after.layers], _dense(before, width))
        _label_layers(panels[-1], len(after.layers))
        panels[-1].set_xlabel("layer (blue: kept, grey: dense)" if before else "layer")
        # matplotlib would write its version into the file.
        figure.savefig(file, format="png", metadata={"Software": None})


def describe_widths(after: ModelShape, before: ModelShape | None) -> str:
    """The picture in words, for those who don't see it."""
    parts = []
    for name, width in _ROWS:
        kept = [width(x) for x in after.layers]
        low, high = min(kept), max(kept)
        span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        dense = _dense(before, width)
        parts.append(f"{span} {name}" + (f" of {max(dense):,}" if dense else ""))
    return f"Bars for each of the {len(after.layers)} layers: {', '.join(parts)}."


def _dense(before: ModelShape | None, width: Callable[[LayerShape], int]) -> list[int]:
    return [width(x) for x in before.layers] if before else []


@contextmanager
def _own_style() -> Iterator[None]:
    """matplotlib as it comes, whatever the user's matplotlibrc says: equal runs, equal bytes."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its caches
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        yield


def _draw(axes: Axes, name: str, kept: list[int], dense: list[int]) -> None:
    layers = range(len(kept))
    if dense:
        axes.bar(layers, dense, width=0.85, color=_DENSE, edgecolor=_EDGE, linewidth=0.5)
    axes.bar(layers, kept, width=0.85, color=_KEPT)
    axes.set_ylabel(name)
    axes.set_ylim(0, 1.08 * max(*kept, *dense, 1))
    axes.set_title(_total(kept, dense), fontsize="small", loc="right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="y", integer=True)
    axes.tick_params(axis="x", length=0, labelbottom=False)


def _total(kept: list[int], dense: list[int]) -> str:
    if not dense:
        return f"{sum(kept):,}"
    share = f" ({sum(kept) / sum(dense):.0%})" if sum(dense) else ""
    return f"{sum(kept):,} kept of {sum(dense):,}{share}"


def _label_layers(axes: Any, count: int) -> None:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if count <= s * _MOST_TICKS)
    axes.set_xticks(range(0, count, step))
    axes.tick_params(axis="x", length=3, labelbottom=True)
    axes.set_xlim(-0.7, count - 0.3)
