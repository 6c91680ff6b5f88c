"""A number of a plan, and what it rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from slimgpt_bench.intervals import INSUFFICIENT

Label = Literal["measured", "modelled", "assumed"]


def plain(value: float) -> str:
    """A number for people: four digits, or all that stand before the point; no exponent.

    >>> plain(295735.2), plain(19.2), plain(0.000189), plain(4.0)
    ('295,735', '19.2', '0.000189', '4')
    """
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")


@dataclass(frozen=True, slots=True)
class Number:
    """One number.

    Attributes:
        value: in ``unit``; None where it can't be told.
        unit: like ``requests/s``.
        label: what it rests on: a measurement of the very thing, a model of it, or what somebody
            said. Computed from several, it has the label of the rate: traffic, margins and prices
            are labelled where they stand.
        source: where it is from, for people.
    """

    value: float | None
    unit: str
    label: Label
    source: str

    def to_json(self) -> dict[str, Any]:
        """With ``insufficient`` for what can't be told."""
        told = self.value is not None and math.isfinite(self.value)
        return {
            "value": self.value if told else INSUFFICIENT,
            "unit": self.unit,
            "label": self.label,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Bounds:
    """A number with what it is at least and at most.

    Attributes:
        lower: the least it can be.
        point: the best estimate.
        upper: the most it can be.
    """

    lower: Number
    point: Number
    upper: Number

    def to_json(self) -> dict[str, Any]:
        return {x: getattr(self, x).to_json() for x in ("lower", "point", "upper")}
