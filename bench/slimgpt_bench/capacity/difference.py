"""What one plan saves against another: accelerators and money, with what they are at least."""

from __future__ import annotations

from typing import Any

from slimgpt_bench.capacity.number import Bounds, Label, Number
from slimgpt_bench.capacity.side import Side

_ORDER: tuple[Label, ...] = ("measured", "modelled", "assumed")


def difference(dense: Side, pruned: Side) -> dict[str, Any]:
    """The ``difference`` entry: the baseline's less the model's own; positive is saved.

    The lower bound is the baseline's least less the model's most; between the plans stands the
    point.
    """
    label = max(dense.plan.planned.label, pruned.plan.planned.label, key=_ORDER.index)
    own, other = pruned.plan, dense.plan
    accelerators = Bounds(
        _less(other.accelerators.lower, own.accelerators.upper, label),
        _less(other.planned_accelerators, own.planned_accelerators, label),
        _less(other.accelerators.upper, own.accelerators.lower, label),
    )
    found: dict[str, Any] = {"accelerators": accelerators.to_json(), "money_per_year": None}
    if dense.money and pruned.money:
        a, b = dense.money.a_year, pruned.money.a_year
        money = Bounds(
            _less(a.lower, b.upper, label),
            _less(a.point, b.point, label),
            _less(a.upper, b.lower, label),
        )
        found["money_per_year"] = money.to_json()
    return found


def _less(whole: Number, part: Number, label: Label) -> Number:
    known = whole.value is not None and part.value is not None
    value = (whole.value or 0.0) - (part.value or 0.0) if known else None
    return Number(value, whole.unit, label, "baseline less MODEL; positive is saved")
