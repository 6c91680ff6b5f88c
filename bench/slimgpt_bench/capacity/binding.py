"""What keeps a replica from bearing more: a resource, or a bound of the SLO itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from slimgpt_bench.capacity.fluid import Fluid
from slimgpt_bench.capacity.number import Number, plain
from slimgpt_bench.capacity.rate import Rate
from slimgpt_bench.slo import OBJECTIVES, Slo

_BUSY = 0.5
"""A resource of which less than this is taken binds nothing."""

_REACHED = 0.9
"""A bound of which so much is used up is reached."""


def utilisations(rate: Rate, best: Fluid, likely: Fluid) -> Mapping[str, Number]:
    """Of each resource, at the highest rate that meets the SLO; empty where none does.

    Args:
        rate: of a replica.
        best: the replica at the roofline's full speed, for a measured rate: at least so much is
            used.
        likely: at the efficiency that is assumed, for a modelled one.
    """
    highest = _highest(rate)
    if highest is None:
        return {}
    fluid = best if rate.measured else likely
    source = f"at {plain(highest)} requests/s, {fluid.efficiency:.0%} of the roofline's speed"
    used = {
        name: Number(value, "share", "modelled", source)
        for name, value in fluid.utilisations(highest).items()
    }
    if not rate.measured:
        return used
    level = rate.near(highest)
    seen = f"at {plain(level.rate_rps)} requests/s: {level.in_flight:.3g} were under way"
    tokens = level.in_flight * fluid.held_tokens / fluid.replica.kv_tokens
    return used | {
        "KV capacity": Number(tokens, "share", "modelled", seen),
        "max sequences": Number(
            level.in_flight / fluid.replica.sequences, "share", "measured", seen
        ),
    }


def binding(rate: Rate, best: Fluid, likely: Fluid, slo: Slo) -> dict[str, str]:
    """The scarcest resource; where none is scarce the bound that is reached, as an entry of a plan.

    Args:
        rate: of a replica.
        best: as in :func:`utilisations`.
        likely: likewise.
        slo: whose bounds it meets.
    """
    used = utilisations(rate, best, likely)
    most = max(used, key=lambda name: used[name].value or 0.0, default=None)
    if most is not None and (used[most].value or 0.0) >= _BUSY:
        number = used[most]
        source = f"{number.value:.0%} of it {number.source}"
        return {"value": most, "unit": "", "label": number.label, "source": source}
    bound = _missed_first(rate, slo) if rate.measured else _reached(rate, likely, slo)
    if bound:
        said = "by the requests that miss it" if rate.measured else "in the model"
        source = f"no resource is half used; this bound is reached first, {said}"
        label = "measured" if rate.measured else "modelled"
        return {"value": f"the bound {bound}", "unit": "", "label": label, "source": source}
    source = "no resource is half used in the model: what engine and host add binds"
    return {"value": "unknown", "unit": "", "label": "modelled", "source": source}


def _highest(rate: Rate) -> float | None:
    return (rate.bounds.lower if rate.measured else rate.bounds.point).value


def _missed_first(rate: Rate, slo: Slo) -> str | None:
    """What most requests miss at the lowest rate that misses the SLO."""
    missed = next((x for x in rate.levels if x.against(slo) == "missed"), None)
    bounds = {k: n for k, n in missed.misses.items() if k in OBJECTIVES} if missed else {}
    return max(bounds, key=lambda name: bounds[name]) if bounds else None


def _reached(rate: Rate, fluid: Fluid, slo: Slo) -> str | None:
    """The bound of which the most is used up by the request that decides the attainment."""
    highest = _highest(rate)
    state = None if highest is None else fluid.at(highest)
    if state is None:
        return None
    share = slo.attainment
    times = {
        "ttft_s": float(np.quantile(state.ttft_s, share)),
        "tpot_s": state.tpot_s,
        "itl_s": state.tpot_s,
        "e2e_s": float(np.quantile(state.e2e_s, share)),
    }
    parts = {name: value / bound for name, value in times.items() if (bound := getattr(slo, name))}
    tightest = max(parts, key=lambda name: parts[name])
    return tightest if parts[tightest] >= _REACHED else None
