"""The plan as a page for people: what to buy, why, and the numbers with what they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from slimgpt_bench.accelerators import HERE
from slimgpt_bench.capacity.job import NOTHING_MEASURED
from slimgpt_bench.capacity.number import plain
from slimgpt_bench.capacity.page_numbers import numbers_table, said

_BOUNDS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "end to end"}

Document = Mapping[str, Any]


def page(document: Document) -> Group:
    """What is printed without ``--json``."""
    parts: list[RenderableType] = []
    if NOTHING_MEASURED in document["problems"]:
        parts.append(Text(f"{NOTHING_MEASURED}\n", style="bold"))
    parts += [Text("\n".join(_plan(document))), Text("\nWhy"), Text("\n".join(_why(document)))]
    problems = [x for x in document["problems"] if x != NOTHING_MEASURED]
    if problems:
        parts += [Text("\nWhat to know"), Text("\n".join(f"- {x}" for x in problems))]
    parts += [Text("\nNumbers, and what they rest on (all of them: --json)")]
    return Group(*parts, numbers_table(document))


def _plan(document: Document) -> Iterator[str]:
    plan, traffic, accelerator = document["plan"], document["traffic"], document["accelerator"]
    replicas, devices = plan["planned_replicas"]["value"], plan["planned_accelerators"]["value"]
    if isinstance(replicas, str):
        yield "Plan      none: how many replicas are enough can't be told (see below)"
    else:
        device = "this machine" if accelerator["name"] == HERE else accelerator["name"]
        yield (
            f"Plan      {plain(replicas)} replicas of {document['artefact']['name']}, "
            f"{said(plan['spare'])} of them spare: {plain(devices)} x {device}"
            f"{_span(plan['accelerators'], devices)}"
        )
        if isinstance(plan["accelerators"]["lower"]["value"], str):
            yield "          fewer may do: no rate that misses the SLO is known"
    yield (
        f"Traffic   {said(traffic['peak_rps'])} requests/s at the peak, growth "
        f"{traffic['growth']['value']:.0%}, headroom {plan['headroom']['value']:.0%}: "
        f"{said(plan['demand_rps'])} requests/s to bear"
    )
    slo = document["slo"]
    bounds = ", ".join(
        f"{_BOUNDS.get(name, name)} {value:g} s" for name, value in slo["objectives"].items()
    )
    yield f"SLO       {bounds} at most, for {slo['attainment']:.1%} of all requests"
    yield from _cost(document)
    yield from _saved(document)


def _span(bounds: Document, planned: float) -> str:
    """What is open around a planned number, in brackets."""
    low, high = (bounds[k]["value"] for k in ("lower", "upper"))
    least = "" if isinstance(low, str) or low == planned else f"at least {plain(low)}"
    most = "" if isinstance(high, str) or high == planned else f"at most {plain(high)}"
    told = ", ".join(x for x in (least, most) if x)
    return f" ({told})" if told else ""


def _cost(document: Document) -> Iterator[str]:
    money = document["money"]
    if not money or not money["per_million_tokens"]:
        return
    a_year, tokens = money["per_year"], money["per_million_tokens"]
    planned = a_year["point"]["value"]
    yield f"Money     {plain(planned)} {money['currency']} a year{_span(a_year, planned)}"
    if following := money["per_year_following_hours"]:
        yield f"          {said(following)} if replicas follow the hours"
    shown = ", ".join(f"{said(tokens[k])} {k}" for k in ("input", "output", "all"))
    yield f"          a million tokens: {shown}"


def _saved(document: Document) -> Iterator[str]:
    saved = document["difference"]
    if not saved:
        return
    dense = document["baseline"]
    devices, money = saved["accelerators"], saved["money_per_year"]
    if isinstance(devices["point"]["value"], str):
        yield "Saved     can't be told: one of the two plans is none"
        return
    words = f"{said(devices['point'])} accelerators{_span(devices, devices['point']['value'])}"
    if money:
        planned = money["point"]["value"]
        words += f", {plain(planned)} {document['money']['currency']} a year"
        words += _span(money, planned)
    yield (
        f"Saved     {words}, against {said(dense['plan']['planned_accelerators'])} for "
        f"{dense['artefact']['name']}"
    )
    least = devices["lower"]["value"]
    if isinstance(least, str) or least <= 0 < devices["point"]["value"]:
        yield "          that it saves any is not sure: the bounds of the two plans overlap"


def _why(document: Document) -> Iterator[str]:
    replica, plan = document["replica"], document["plan"]
    if replica["levels"]:
        yield _measured(document)
    elif not isinstance(replica["rate_rps"]["point"]["value"], str):
        rate = replica["rate_rps"]
        yield (
            f"One replica is modelled to meet the SLO at {said(rate['point'])} requests/s, and "
            f"at {said(rate['upper'])} if it had the roofline's whole speed"
        )
    if isinstance(plan["planned_replicas"]["value"], str):
        yield "No rate is known to meet the SLO: what stands below says why"
    else:
        binding = plan["binding"]
        yield f"Each bears {said(plan['per_replica_rps'])} requests/s when the spares are out"
        yield f"What binds: {binding['value']} ({binding['source']}; {binding['label']})"
    for level in replica["levels"]:
        yield _level(level)
    if found := document["verification"]:
        yield from _verified(found)


def _measured(document: Document) -> str:
    rate = document["replica"]["rate_rps"]
    low, point, high = (rate[k] for k in ("lower", "point", "upper"))
    confidence = f"{document['slo'].get('confidence', 0.95):.0%} confidence"
    sure = f"One replica meets the SLO with {confidence} at {said(low)} requests/s"
    if isinstance(low["value"], str):
        sure = f"No measured rate meets the SLO with {confidence}"
    told = "" if point["value"] == low["value"] else f", by the point estimate at {said(point)}"
    missed = f", and misses it at {said(high)}"
    if isinstance(high["value"], str):
        missed = "; no rate was measured that misses it"
    return f"{sure}{told}{missed} ({point['label']})"


def _level(level: Document) -> str:
    share = level["attainment"]
    low, high = share["interval"]
    misses = ", ".join(f"{name} {n}" for name, n in sorted(level["misses"].items()))
    return (
        f"  measured at {plain(level['rate_rps'])}/s: {share['value']:.1%} of {share['n']} meet it "
        f"({low:.1%} to {high:.1%}): {level['resolution']}"
        f"{', queue grows' if level['saturated'] else ''}{f'; missed: {misses}' if misses else ''}"
    )


def _verified(found: Document) -> Iterator[str]:
    yield (
        f"Verified at {plain(found['rate_rps'])} requests/s on {found['url']}: SLO "
        f"{found['resolution']}"
    )
    for name, predicted in found["predicted"].items():
        measured, error = found["measured"].get(name, "insufficient"), found["error"][name]
        shown = error if isinstance(error, str) else f"{error:+.1%}"
        values = f"predicted {said(predicted)}, measured {said(measured)}"
        yield f"  {name}: {values}, error {shown}"
