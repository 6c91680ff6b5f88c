"""The highest rate of one replica that meets the SLO: measured with its bounds, or modelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt_bench.capacity.fluid import Fluid
from slimgpt_bench.capacity.number import Bounds, Label, Number, plain
from slimgpt_bench.quantity import Resolution, Share
from slimgpt_bench.slo import Slo

_UNIT = "requests/s"
_ENOUGH_RUNS = 3
"""As for the interval of a mean: fewer say nothing of how runs differ."""


@dataclass(frozen=True, slots=True)
class Level:
    """What one rate did, judged by the SLO of the plan; runs at the same rate stand together.

    Attributes:
        rate_rps: offered, in an open loop.
        attainment: share of all requests that met the SLO, failures among those that did not.
        saturated: the queue grew in most of its runs, so that no share of it would last.
        in_flight: requests under way on average, by Little's law.
        misses: requests that missed each bound, or failed.
        seconds: median and p95 of what was measured; p95 is None with too few requests.
        tokens_per_s: of answers.
        runs: that it was measured in.
    """

    rate_rps: float
    attainment: Share
    saturated: bool
    in_flight: float
    misses: Mapping[str, int]
    seconds: Mapping[str, Mapping[str, float | None]]
    tokens_per_s: float
    runs: int = 1

    def against(self, slo: Slo) -> Resolution:
        """Whether the rate meets the SLO, as far as the interval tells.

        While the queue grows, what met the SLO in this run would not in a longer one.
        """
        found = self.attainment.against(slo.attainment)
        return "unresolved" if self.saturated and found == "met" else found

    def to_json(self, slo: Slo) -> dict[str, Any]:
        return {
            "rate_rps": self.rate_rps,
            "attainment": self.attainment.to_json(),
            "resolution": self.against(slo),
            "saturated": self.saturated,
            "in_flight": self.in_flight,
            "misses": dict(self.misses),
            "output_tokens_per_s": self.tokens_per_s,
            "runs": self.runs,
        }


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one replica.

    Attributes:
        bounds: lower is what is sure, upper is what is excluded.
        levels: that it was found from; empty where it is modelled.
        problems: what a reader must know.
        unresolved: why no number of replicas can be told from it; None where one can.
    """

    bounds: Bounds
    levels: tuple[Level, ...] = ()
    problems: tuple[str, ...] = ()
    unresolved: str | None = None

    @property
    def measured(self) -> bool:
        return bool(self.levels)

    def near(self, rate_rps: float) -> Level:
        """The level that is nearest to a rate, on a scale of ratios."""
        return min(
            self.levels,
            key=lambda x: max(x.rate_rps / rate_rps, rate_rps / x.rate_rps),
        )


def no_rate(why: str) -> Rate:
    """Where nothing can be planned, whatever was measured."""
    nothing = Number(None, _UNIT, "modelled", "no rate meets the SLO")
    return Rate(Bounds(nothing, nothing, nothing), unresolved=why)


def measured_rate(levels: Sequence[Level], slo: Slo, label: Label, source: str) -> Rate:
    """From levels of a sweep, read upwards until the first that misses.

    The lower bound is the highest rate whose whole interval meets the SLO, the point the highest
    whose share does, and the upper bound the lowest rate whose whole interval misses it. A rate at
    which the queue grows is neither of the first two.

    Args:
        levels: in any order; at least one.
        slo: that they are judged by.
        label: of the rates.
        source: of them, for people.
    """
    ordered = sorted(levels, key=lambda x: x.rate_rps)
    missed = next((x for x in ordered if x.against(slo) == "missed"), None)
    below = [x for x in ordered if missed is None or x.rate_rps < missed.rate_rps]
    met = [x.rate_rps for x in below if x.against(slo) == "met"]
    likely = [x.rate_rps for x in below if x.attainment.value >= slo.attainment and not x.saturated]
    ends = (
        max(met, default=None),
        max(likely, default=None),
        missed.rate_rps if missed else None,
    )
    bounds = Bounds(*(Number(x, _UNIT, label, source) for x in ends))
    unresolved = None
    if bounds.lower.value is None:
        hopeless = missed is not None and not below
        unresolved = _hopeless(ordered, slo) if hopeless else _unsure(ordered, slo)
    return Rate(bounds, tuple(ordered), tuple(_problems(ordered, below, bounds, slo)), unresolved)


def _hopeless(levels: Sequence[Level], slo: Slo) -> str:
    best = max(levels, key=lambda x: x.attainment.value)
    why = max(best.misses, key=lambda name: best.misses[name]) if best.misses else "the queue grew"
    return (
        f"no measured rate meets the SLO: the best is {best.attainment.value:.1%} at "
        f"{plain(best.rate_rps)} requests/s, and {slo.attainment:.1%} must (most often missed: "
        f"{why}): measure lower rates, widen the bounds of --slo, or serve a faster model"
    )


def _unsure(levels: Sequence[Level], slo: Slo) -> str:
    best = max(levels, key=lambda x: x.attainment.interval[0])
    low, high = best.attainment.interval
    return (
        f"no measured rate is sure to meet the SLO: at {plain(best.rate_rps)} requests/s "
        f"{best.attainment.value:.1%} of {best.attainment.n} requests do, {low:.1%} to {high:.1%}, "
        f"and {slo.attainment:.1%} must: measure longer, or lower rates"
    )


def _problems(
    levels: Sequence[Level], below: Sequence[Level], bounds: Bounds, slo: Slo
) -> list[str]:
    found = []
    sure = next((x for x in levels if x.rate_rps == bounds.lower.value), None)
    if sure and sure.runs < _ENOUGH_RUNS:
        found.append(
            f"{plain(sure.rate_rps)} requests/s was measured in {sure.runs} run(s), and the bounds "
            f"hold how much runs differ from {_ENOUGH_RUNS} on: measure again, the server started "
            "anew"
        )
    if bounds.upper.value is None:
        found.append(
            "the sweep ends before any rate misses the SLO for sure: fewer replicas may do; "
            "measure higher rates"
        )
    above = [x for x in levels if x not in below and x.against(slo) == "met"]
    if above:
        rates = ", ".join(plain(x.rate_rps) for x in above)
        found.append(
            f"at {rates} requests/s the SLO is met though a lower rate misses it: the levels were "
            "not measured under the same conditions, and only those below the miss are used"
        )
    return found


def modelled_rate(best: Fluid, likely: Fluid, slo: Slo) -> Rate:
    """From the roofline: nothing says how far an engine stays behind it.

    Args:
        best: at efficiency 1.
        likely: at the efficiency that is assumed.
        slo: to be met.
    """
    upper, point = best.highest_rate(slo), likely.highest_rate(slo)
    source = f"roofline of the widths on {best.replica.accelerator.name}"
    assumed = f"{source}, at an assumed {likely.efficiency:.0%} of its speed"
    unresolved = None
    if not upper:
        unresolved = _beyond_the_floor(best, slo)
    elif not point:
        unresolved = (
            f"at an assumed {likely.efficiency:.0%} of {best.replica.accelerator.name}'s roofline "
            "no rate meets the SLO: measure, and give --evidence"
        )
    return Rate(
        Bounds(
            Number(None, _UNIT, "modelled", "a model has no lower bound: measure"),
            Number(point, _UNIT, "modelled", assumed),
            Number(upper, _UNIT, "modelled", f"{source}, at its whole speed"),
        ),
        unresolved=unresolved,
    )


def _beyond_the_floor(best: Fluid, slo: Slo) -> str:
    state = best.at(0.0)
    reached = best.attainment(0.0, slo)
    tpot = 0.0 if state is None else state.tpot_s
    prompt = float(best.prefill_s.max())
    return (
        f"no rate can meet the SLO on {best.replica.accelerator.name}: a replica without other "
        f"work needs at least {prompt:.3g} s for the longest prompt and {tpot:.3g} s for each "
        f"token, by the roofline, so that {reached:.1%} of requests could meet it and "
        f"{slo.attainment:.1%} must: widen --slo, give a faster --accelerator or a higher "
        "--tensor-parallel, or prune more"
    )
