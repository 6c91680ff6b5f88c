"""Lengths of prompts or answers: a distribution that can be drawn from, and asked for its shape.

Every distribution is told by its quantile function, and the mean, draws and quantiles all come from
that one, so that what is planned with is what is sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from slimgpt.errors import UsageError

LARGEST = 10_000_000
"""Tokens; no model's context is longer, and larger numbers are typing errors."""
SYNTAX = "128, 64:256, normal:MEAN,SD or lognormal:MEAN,SD, these two also with ,LOW,HIGH"
_GRID = 4096
_TABLE = 1 << 14
_PARAMETERS = {"fixed": (1,), "uniform": (2,), "normal": (2, 4), "lognormal": (2, 4)}


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths in tokens, each a whole number of at least 1.

    Attributes:
        kind: ``fixed``, ``uniform``, ``normal``, ``lognormal`` or ``empirical``.
        parameters: the length; the ends, both included; mean and standard deviation of the lengths
            themselves (of a lognormal too) before they are clipped; or the values, sorted.
        low: shorter ones become this long.
        high: longer ones become this long.
    """

    kind: str
    parameters: tuple[float, ...]
    low: int = 1
    high: int = LARGEST

    @classmethod
    def parse(cls, text: str, option: str = "--prompt") -> Lengths:
        """From what a user wrote.

        Args:
            text: ``128``, ``fixed:128``, ``64:256``, ``uniform:64,256``, ``normal:512,100`` or
                ``lognormal:512,256``; the last two may end in ``,LOW,HIGH``.
            option: that was given, for messages.

        Raises:
            UsageError: it is none of these.
        """

        def refuse(why: str) -> NoReturn:
            raise UsageError(f"{option} {text}: {why}: give {SYNTAX}, in tokens")

        kind, numbers = _parts(text)
        try:
            values = tuple(float(x) for x in numbers)
        except ValueError:
            refuse("no lengths")
        if len(values) not in _PARAMETERS.get(kind, ()):
            refuse(f"{kind} takes {_counts(kind)}" if kind in _PARAMETERS else "no lengths")
        if not all(math.isfinite(x) and 0 <= x <= LARGEST for x in values):
            refuse(f"lengths are from 1 to {LARGEST:,}")
        wrong = _wrong(kind, values)
        if wrong:
            refuse(wrong)
        clip = (int(values[2]), int(values[3])) if len(values) > 2 else (1, LARGEST)
        return cls(kind, values[:2], *clip)

    @classmethod
    def empirical(cls, values: Sequence[int], origin: str = "the lengths") -> Lengths:
        """Lengths that were seen, each as likely as often as it is there.

        Raises:
            UsageError: there are none, or one is no length.
        """
        if not values:
            raise UsageError(f"{origin} has no rows: give at least one length")
        if not 1 <= min(values) <= max(values) <= LARGEST:
            wrong = min(values) if min(values) < 1 else max(values)
            raise UsageError(f"{origin} has a length of {wrong}: lengths are 1 to {LARGEST:,}")
        return cls("empirical", tuple(float(x) for x in sorted(values)))

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """``n`` independent lengths."""
        return self._at(rng.random(n))

    def quantile(self, share: float) -> float:
        """The length that ``share`` of all do not exceed."""
        return float(self._at(np.array([share]))[0])

    @property
    def mean(self) -> float:
        """Of what is drawn: after rounding and clipping."""
        if self.kind == "empirical":
            return float(np.mean(self.parameters))
        return float(self._at((np.arange(_GRID) + 0.5) / _GRID).mean())

    def to_json(self) -> dict[str, Any]:
        """For a result: parameters, and what they amount to."""
        told: dict[str, Any] = {"kind": self.kind, "mean": self.mean}
        told |= {f"p{p}": self.quantile(p / 100) for p in (50, 95, 99)}
        if self.kind == "empirical":
            return told | {"n": len(self.parameters)}
        clipped = {} if (self.low, self.high) == (1, LARGEST) else {"low": self.low}
        clipped |= {"high": self.high} if clipped else {}
        return told | {"parameters": list(self.parameters), **clipped}

    def _at(self, shares: NDArray[np.float64]) -> NDArray[np.int64]:
        values = np.rint(_QUANTILES[self.kind](shares, self.parameters))
        found: NDArray[np.int64] = np.clip(values, self.low, self.high).astype(np.int64)
        return found


def _parts(text: str) -> tuple[str, list[str]]:
    """Kind and numbers; a bare number is fixed, and LO:HI uniform."""
    kind, colon, rest = text.strip().partition(":")
    if not colon:
        return "fixed", [kind]
    if kind in _PARAMETERS:
        return kind, rest.split(",")
    return "uniform", [kind, rest]


def _counts(kind: str) -> str:
    return " or ".join(str(n) for n in _PARAMETERS[kind]) + " numbers"


def _wrong(kind: str, values: tuple[float, ...]) -> str | None:
    ends = {"fixed": values, "uniform": values}.get(kind, values[2:])
    if any(x != int(x) or x < 1 for x in ends):
        return "lengths are whole numbers from 1"
    if len(ends) == 2 and ends[0] > ends[1]:
        return "the first end is beyond the second"
    if kind in ("normal", "lognormal") and values[0] < 1:
        return "the mean is below 1"
    return None


# -- quantile functions -------------------------------------------------------------------------

_Floats = NDArray[np.float64]


def _fixed(shares: _Floats, parameters: tuple[float, ...]) -> _Floats:
    return np.full(shares.shape, parameters[0])


def _uniform(shares: _Floats, parameters: tuple[float, ...]) -> _Floats:
    low, high = parameters
    return np.minimum(np.floor(low + shares * (high - low + 1)), high)


def _standard_normal(shares: _Floats) -> _Floats:
    """Quantiles of the standard normal, read off a table that is exact at its points."""
    grid = (np.arange(_TABLE) + 0.5) / _TABLE
    return np.asarray(np.interp(shares, grid, _normal_table()))


@cache
def _normal_table() -> _Floats:
    inverse = NormalDist().inv_cdf
    return np.array([inverse((i + 0.5) / _TABLE) for i in range(_TABLE)])


def _normal(shares: _Floats, parameters: tuple[float, ...]) -> _Floats:
    return parameters[0] + parameters[1] * _standard_normal(shares)


def _lognormal(shares: _Floats, parameters: tuple[float, ...]) -> _Floats:
    mean, deviation = parameters
    variance = math.log1p((deviation / mean) ** 2)
    logs = math.log(mean) - variance / 2 + math.sqrt(variance) * _standard_normal(shares)
    return np.asarray(np.exp(logs))


def _empirical(shares: _Floats, parameters: tuple[float, ...]) -> _Floats:
    places = np.minimum((shares * len(parameters)).astype(np.int64), len(parameters) - 1)
    return np.asarray(parameters)[places]


_QUANTILES: dict[str, Callable[[_Floats, tuple[float, ...]], _Floats]] = {
    "fixed": _fixed,
    "uniform": _uniform,
    "normal": _normal,
    "lognormal": _lognormal,
    "empirical": _empirical,
}
