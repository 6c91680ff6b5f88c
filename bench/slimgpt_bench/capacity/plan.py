"""How many replicas, and what each of them has to bear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from slimgpt_bench.capacity.number import Bounds, Number, plain
from slimgpt_bench.capacity.rate import Rate
from slimgpt_bench.capacity.traffic import Traffic

_ROUNDING = 1e-9
"""So much of a replica is no reason for one more: 12 * 1.2 / 1.2 is not 12 in a computer."""


@dataclass(frozen=True, slots=True)
class Margins:
    """What is added to what is needed.

    Attributes:
        headroom: share of the peak.
        spares: replicas that may fail.
    """

    headroom: float = 0.2
    spares: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Replicas and accelerators.

    Attributes:
        demand: requests a second that all replicas together must bear.
        replicas: with spares; lower from the upper bound of the rate, and the other way round.
        planned: that many; the upper bound of what was measured, the point of what was modelled;
            None where it can't be told.
        degree: accelerators of each.
        margins: that are in it.
    """

    demand: Number
    replicas: Bounds
    planned: Number
    degree: int
    margins: Margins

    @property
    def accelerators(self) -> Bounds:
        """Of all replicas."""
        found = self.replicas
        return Bounds(*(self._devices(x) for x in (found.lower, found.point, found.upper)))

    @property
    def planned_accelerators(self) -> Number:
        return self._devices(self.planned)

    def _devices(self, replicas: Number) -> Number:
        count = None if replicas.value is None else replicas.value * self.degree
        source = f"{self.degree} for each replica"
        return Number(count, "accelerators", replicas.label, source)

    @property
    def per_replica_rps(self) -> Number:
        """What each bears at the peak, growth and headroom in it, while the spares are out."""
        count, demand = self.planned.value, self.demand.value
        rate = None if count is None or demand is None else demand / (count - self.margins.spares)
        return Number(rate, "requests/s", self.planned.label, "demand over replicas without spares")

    def to_json(self) -> dict[str, Any]:
        return {
            "demand_rps": self.demand.to_json(),
            "headroom": Number(
                self.margins.headroom, "share", "assumed", "--headroom of the peak"
            ).to_json(),
            "spare": Number(self.margins.spares, "replicas", "assumed", "--spares").to_json(),
            "replicas": self.replicas.to_json(),
            "accelerators": self.accelerators.to_json(),
            "planned_replicas": self.planned.to_json(),
            "planned_accelerators": self.planned_accelerators.to_json(),
            "per_replica_rps": self.per_replica_rps.to_json(),
        }


def make_plan(traffic: Traffic, rate: Rate, margins: Margins, degree: int) -> Plan:
    """N = ceil(peak (1 + growth) (1 + headroom) / rate of a replica) + spares, at every bound."""
    demand = Number(
        traffic.planned_peak_rps * (1 + margins.headroom),
        "requests/s",
        "assumed",
        f"peak {plain(traffic.peak_rps)} with growth {traffic.growth:g} and headroom "
        f"{margins.headroom:g}",
    )

    def replicas(of: Number, name: str) -> Number:
        count = None if not of.value else needed(demand.value or 0.0, of.value) + margins.spares
        return Number(count, "replicas", of.label, f"demand over rate_rps.{name}, and spares")

    found = rate.bounds
    bounds = Bounds(
        replicas(found.upper, "upper"),
        replicas(found.point, "point"),
        replicas(found.lower, "lower"),
    )
    planned = bounds.upper if rate.measured else bounds.point
    return Plan(demand, bounds, planned, degree, margins)


def needed(demand_rps: float, rate_rps: float) -> int:
    """Replicas that bear a demand: at least one."""
    return max(1, math.ceil(demand_rps / rate_rps - _ROUNDING))
