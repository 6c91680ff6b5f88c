"""The plan as a page for people: what to buy, why, and every number with what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slimgpt.resources import human_bytes
from slimgpt_bench.accelerators import HERE
from slimgpt_bench.capacity.job import NOTHING_MEASURED

_UNKNOWN = "not known"

Document = Mapping[str, Any]


def page(document: Document) -> Group:
    """What is printed without ``--json``."""
    parts: list[RenderableType] = []
    if NOTHING_MEASURED in document["problems"]:
        parts.append(Text(f"{NOTHING_MEASURED}\n", style="bold"))
    parts += [Text("\n".join(_plan(document))), Text("\nWhy"), Text("\n".join(_why(document)))]
    parts += [Text("\nNumbers"), _numbers(document)]
    problems = [x for x in document["problems"] if x != NOTHING_MEASURED]
    if problems:
        parts += [Text("\nWhat to know"), Text("\n".join(f"- {x}" for x in problems))]
    return Group(*parts)


def _plan(document: Document) -> Iterator[str]:
    plan, traffic, accelerator = document["plan"], document["traffic"], document["accelerator"]
    replicas, devices = plan["planned_replicas"]["value"], plan["planned_accelerators"]["value"]
    if isinstance(replicas, str):
        yield "Plan      none: how many replicas are enough can't be told (see below)"
    else:
        bounds = plan["accelerators"]
        device = "this machine" if accelerator["name"] == HERE else accelerator["name"]
        yield (
            f"Plan      {replicas} replicas of {document['artefact']['name']}, "
            f"{plan['spare']['value']} of them spare: {devices} x {device} "
            f"({_short(bounds['lower'])} to {_short(bounds['upper'])})"
        )
    yield (
        f"Traffic   {_short(traffic['peak_rps'])} requests/s at the peak, growth "
        f"{traffic['growth']['value']:.0%}, headroom {plan['headroom']['value']:.0%}: "
        f"{_short(plan['demand_rps'])} requests/s to bear"
    )
    slo = document["slo"]
    bounds = ", ".join(f"{name} {value:g}" for name, value in slo["objectives"].items())
    yield f"SLO       {bounds}, for {slo['attainment']:.1%} of all requests"
    yield from _cost(document)
    yield from _saved(document)


def _cost(document: Document) -> Iterator[str]:
    money = document["money"]
    if not money or not money["per_million_tokens"]:
        return
    a_year, tokens = money["per_year"], money["per_million_tokens"]
    yield (
        f"Money     {_short(a_year['point'])} {money['currency']} a year "
        f"({_short(a_year['lower'])} to {_short(a_year['upper'])})"
    )
    if following := money["per_year_following_hours"]:
        yield f"          {_short(following)} if replicas follow the hours"
    shown = ", ".join(f"{_short(tokens[k])} {k}" for k in ("input", "output", "all"))
    yield f"          a million tokens: {shown}"


def _saved(document: Document) -> Iterator[str]:
    saved = document["difference"]
    if not saved:
        return
    dense = document["baseline"]
    devices, money = saved["accelerators"], saved["money_per_year"]
    words = f"{_short(devices['point'])} accelerators"
    words += f" ({_short(devices['lower'])} to {_short(devices['upper'])})"
    if money:
        words += f", {_short(money['point'])} {document['money']['currency']} a year"
        words += f" ({_short(money['lower'])} to {_short(money['upper'])})"
    yield (
        f"Saved     {words}, against {_short(dense['plan']['planned_accelerators'])} for "
        f"{dense['artefact']['name']}"
    )


def _why(document: Document) -> Iterator[str]:
    replica, plan = document["replica"], document["plan"]
    rate = replica["rate_rps"]
    if replica["levels"]:
        yield (
            f"One replica meets the SLO at {_short(rate['lower'])} requests/s for sure, at "
            f"{_short(rate['point'])} by the point estimate, and misses it at "
            f"{_short(rate['upper'])} ({rate['point']['label']})"
        )
    elif not isinstance(rate["point"]["value"], str):
        yield (
            f"One replica is modelled to meet the SLO at {_short(rate['point'])} requests/s, and "
            f"at {_short(rate['upper'])} if it had the roofline's whole speed"
        )
    if isinstance(plan["planned_replicas"]["value"], str):
        yield "No rate is known to meet the SLO: what stands below says why"
    else:
        binding = plan["binding"]
        yield (f"Each bears {_short(plan['per_replica_rps'])} requests/s when the spares are out")
        yield f"What binds: {binding['value']} ({binding['source']}; {binding['label']})"
    for level in replica["levels"]:
        yield _level(level)
    if found := document["verification"]:
        yield from _verified(found)


def _level(level: Document) -> str:
    share = level["attainment"]
    low, high = share["interval"]
    misses = ", ".join(f"{name} {n}" for name, n in sorted(level["misses"].items()))
    return (
        f"  measured at {level['rate_rps']:g}/s: {share['value']:.1%} of {share['n']} meet it "
        f"({low:.1%} to {high:.1%}): {level['resolution']}"
        f"{', queue grows' if level['saturated'] else ''}{f'; missed: {misses}' if misses else ''}"
    )


def _verified(found: Document) -> Iterator[str]:
    yield (
        f"Verified at {found['rate_rps']:.4g} requests/s on {found['url']}: SLO "
        f"{found['resolution']}"
    )
    for name, predicted in found["predicted"].items():
        measured, error = found["measured"].get(name, "insufficient"), found["error"][name]
        shown = error if isinstance(error, str) else f"{error:+.1%}"
        yield f"  {name}: predicted {_plain(predicted)}, measured {_plain(measured)}, error {shown}"


def _numbers(document: Document) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("number")
    table.add_column("value", justify="right")
    for name in ("unit", "label", "source"):
        table.add_column(name)
    for part in ("traffic", "replica", "plan", "money"):
        for name, number in _labelled(document[part]):
            value = number["value"]
            if number["unit"] == "B" and not isinstance(value, str):
                shown, unit = human_bytes(value), ""
            else:
                shown, unit = _plain(value), number["unit"]
            table.add_row(name, shown, unit, number["label"], number["source"])
    return table


def _labelled(part: Any, path: str = "") -> Iterator[tuple[str, Document]]:
    """Every labelled number, by its path."""
    if not isinstance(part, Mapping):
        return
    if {"value", "unit", "label"} <= set(part):
        yield path, part
        return
    for name, inside in part.items():
        yield from _labelled(inside, f"{path}.{name}" if path else str(name))


def _short(number: Document) -> str:
    return _plain(number["value"])


def _plain(value: float | str) -> str:
    """Four digits, or all that stand before the point."""
    if isinstance(value, str):
        return _UNKNOWN if value == "insufficient" else value
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"
