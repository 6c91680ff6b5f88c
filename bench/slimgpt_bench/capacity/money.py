"""What a plan costs a year and a million tokens, where somebody gave a price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slimgpt_bench.capacity.fluid import Fluid
from slimgpt_bench.capacity.number import Bounds, Label, Number
from slimgpt_bench.capacity.plan import Plan, needed
from slimgpt_bench.capacity.rate import Rate
from slimgpt_bench.capacity.traffic import Traffic

YEAR_HOURS = 365 * 24
_DAY_HOURS = 24
_HOUR_S = 3600
_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Money:
    """Cost of a plan.

    Attributes:
        currency: of all.
        price: of one accelerator an hour.
        a_year: of all accelerators, always on; lower, planned and upper number of replicas.
        following: a year, if replicas follow the hours of the traffic; None without hours.
        a_million: of ``input``, ``output`` and ``all`` tokens, at the mean rate of the traffic.
    """

    currency: str
    price: Number
    a_year: Bounds
    following: Number | None
    a_million: dict[str, Number]

    def to_json(self) -> dict[str, Any]:
        return {
            "currency": self.currency,
            "price_per_accelerator_hour": self.price.to_json(),
            "per_year": self.a_year.to_json(),
            "per_year_following_hours": self.following.to_json() if self.following else None,
            "per_million_tokens": {k: v.to_json() for k, v in self.a_million.items()},
        }


def cost_of(plan: Plan, rate: Rate, traffic: Traffic, fluid: Fluid) -> Money | None:
    """The cost; None without a price.

    Money for a million tokens is at the planned utilisation: what all accelerators cost in an
    hour, over the tokens that the mean rate brings in one. Prompts and answers share the cost as
    they share the device's time in the model, so that both prices together pay for everything.
    """
    if traffic.price_per_hour is None:
        return None
    price = Number(
        traffic.price_per_hour,
        f"{traffic.currency}/h",
        "assumed",
        "--price, or price_per_accelerator_hour of --traffic",
    )
    a_year = Bounds(
        *(
            _year(count, plan, traffic)
            for count in (plan.replicas.lower, plan.planned, plan.replicas.upper)
        )
    )
    return Money(
        traffic.currency,
        price,
        a_year,
        _following(plan, rate, traffic),
        _a_million(plan, traffic, fluid),
    )


def _year(replicas: Number, plan: Plan, traffic: Traffic) -> Number:
    price = traffic.price_per_hour or 0.0
    value = None if replicas.value is None else replicas.value * plan.degree * price * YEAR_HOURS
    unit = f"{traffic.currency}/year"
    return Number(value, unit, replicas.label, f"replicas times the price, {YEAR_HOURS:,} hours")


def _following(plan: Plan, rate: Rate, traffic: Traffic) -> Number | None:
    """Every hour with the replicas of its own rate, spares and headroom among them."""
    per_replica = rate.bounds.lower.value if rate.measured else rate.bounds.point.value
    if not traffic.hours or not per_replica:
        return None
    factor = (1 + traffic.growth) * (1 + plan.margins.headroom)
    a_day = sum(
        hours * (needed(at * factor, per_replica) + plan.margins.spares)
        for hours, at in traffic.hours
    )
    cost = a_day * plan.degree * (traffic.price_per_hour or 0.0) * YEAR_HOURS / _DAY_HOURS
    unit = f"{traffic.currency}/year"
    return Number(cost, unit, plan.planned.label, "replicas follow the hours at once")


def _a_million(plan: Plan, traffic: Traffic, fluid: Fluid) -> dict[str, Number]:
    accelerators = plan.planned_accelerators.value
    if accelerators is None:
        return {}
    cost = accelerators * (traffic.price_per_hour or 0.0)
    requests = traffic.mean_rps * _HOUR_S
    prompt, output = (requests * float(x) for x in fluid.sample.mean(axis=0))
    used = fluid.utilisations(traffic.mean_rps)
    prefill, decode = used["prefill compute"], used["decode bandwidth"]
    part = prefill / (prefill + decode)

    def price(money: float, tokens: float, label: Label, source: str) -> Number:
        unit = f"{traffic.currency}/million tokens"
        return Number(money / tokens * _MILLION, unit, label, source)

    split = f"at the mean rate; prompts take a modelled {part:.0%} of the device's time"
    return {
        "input": price(cost * part, prompt, "modelled", split),
        "output": price(cost * (1 - part), output, "modelled", split),
        "all": price(
            cost, prompt + output, plan.planned.label, "at the mean rate, input and output alike"
        ),
    }
