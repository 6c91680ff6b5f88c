"""Numbers as a reader sees them: three digits, a unit that fits, and an interval beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt_bench.intervals import INSUFFICIENT

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_COUNTS = ((10**9, " B"), (10**6, " M"), (10**3, " k"), (1, ""))
_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit, and how much of the base unit it is."""

    size: float
    name: str


ONE = Unit(1.0, "")


def number(value: Any) -> str:
    """Three significant digits, and all digits before the point.

    >>> number(0.02186), number(1250.4), number(1.0), number("insufficient")
    ('0.0219', '1,250', '1.00', 'insufficient')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return INSUFFICIENT if value == INSUFFICIENT else "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return "0" if value == 0 else f"{value:#.3g}".rstrip(".").replace("-", "−")


def perplexity(value: Any) -> str:
    """A measured perplexity; JSON has no number for one that is infinite.

    >>> perplexity(5.68), perplexity(None)
    ('5.68', 'not finite')
    """
    return "not finite" if value is None else number(value)


def interval(ends: Any, unit: Unit = ONE) -> str:
    """An interval in brackets.

    >>> interval([0.0217, 0.022], Unit(1e-3, "ms")), interval("insufficient")
    ('[21.7, 22.0]', 'insufficient')
    """
    if isinstance(ends, str) or ends is None:
        return INSUFFICIENT if ends else "–"
    return f"[{number(ends[0] / unit.size)}, {number(ends[1] / unit.size)}]"


def seconds_unit(values: Iterable[Any], *, drawn: bool = False) -> Unit:
    """The unit in which the smallest of the times has digits before its point.

    Args:
        values: times in seconds; what is none is passed over.
        drawn: the largest decides, since an axis names that one.
    """
    found = [v for v in values if isinstance(v, int | float)] or [1.0]
    decides = max(found) if drawn else min(found)
    return Unit(*next((x for x in _SECONDS if decides >= x[0]), _SECONDS[-1]))


def size(value: Any) -> str:
    """Bytes in a binary unit.

    >>> size(13476831232)
    '12.6 GiB'
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    scale, name = next((x for x in _BYTES if abs(value) >= x[0]), _BYTES[-1])
    return f"{number(value / scale)} {name}"


def count(value: int) -> str:
    """A number of parameters.

    >>> count(6738415616), count(12)
    ('6.74 B', '12')
    """
    scale, name = next((x for x in _COUNTS if value >= x[0]), _COUNTS[-1])
    return f"{number(value / scale if scale > 1 else value)}{name}"


def percent(share: float) -> str:
    """A share of one with three digits.

    >>> percent(0.2468)
    '24.7 %'
    """
    return f"{number(100 * share)} %"


def medians(quantities: Sequence[Mapping[str, Any]]) -> list[float]:
    """The medians that are numbers."""
    return [q["median"] for q in quantities if isinstance(q["median"], int | float)]
