"""How servers do under load: latency, share within the SLO and throughput over what is offered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

from slimgpt_bench.report.blocks import Block, Cell, Chart, Charts, Heading, Section, Series, Table
from slimgpt_bench.report.charts.curves import Curve, Dot, Frame, curves
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.cells import NAMES, ends, percentile, quantity
from slimgpt_bench.report.sections.drawn import series_of
from slimgpt_bench.report.told import interval, medians, number, seconds_unit

_DRAWN = (("ttft_s", "median"), ("ttft_s", "p95"), ("tpot_s", "median"), ("e2e_s", "median"))

Document = Mapping[str, Any]


def load(pages: Pages) -> Section | None:
    """A part for each workload, kind of arrivals, server and machine: only these are alike."""
    blocks: list[Block] = []
    for i, group in enumerate(_alike(pages)):
        blocks += _part(pages, group, f"load-{i}")
    lead = (
        "Times run from the moment at which a request was due, so waiting for a free connection "
        "counts. Failed requests stay in every denominator. A cross marks a level that was "
        "saturated or is not valid."
    )
    return Section("load", "Load", tuple(blocks), lead) if blocks else None


def attained(document: Document) -> tuple[float, Mapping[str, Any]] | None:
    """The highest offered rate of a valid level whose whole interval meets the SLO.

    As in a capacity plan, a rate above one that misses the SLO does not count, nor one at which the
    queue grows. Of a search for that rate it is the one that the search settled on.
    """
    slo, search = document["slo"], document["search"] or {}
    settled = search.get("rate_rps") if search.get("kind") == "slo" else None
    if not slo or (search.get("kind") == "slo" and settled is None):
        return None
    judged = [
        (level["offered"]["rate_rps"], level["attainment"], _flagged(level))
        for level in document["levels"]
        if level["attainment"] and "rate_rps" in level["offered"]
    ]
    target = slo["attainment"]
    missed = min((x[0] for x in judged if x[1]["interval"][1] < target), default=inf)
    found = [
        (rate, share)
        for rate, share, flagged in judged
        if share["interval"][0] >= target
        and not flagged
        and rate < missed
        and settled in (None, rate)
    ]
    return max(found, key=lambda x: x[0], default=None)


def _alike(pages: Pages) -> list[list[Document]]:
    groups: dict[tuple[str, ...], list[Document]] = {}
    for document in pages.of("load"):
        told = document["load"]
        tokenizer = (document["artefact"] or {}).get("tokenizer_digest")
        same = [document["workload"]["digest"], _server(document), _axis(document)[0], tokenizer]
        same += [told.get(k) for k in ("arrival", "burstiness", "concurrency_cap")]
        same += [(document["slo"] or {}).get("digest"), document["environment"].get("cpu")]
        groups.setdefault(tuple(map(str, same)), []).append(document)
    return list(groups.values())


def _server(document: Document) -> str:
    server = document["target"].get("server") or {}
    said = [str(server[k]) for k in ("software", "engine", "version") if server.get(k)]
    return " ".join(said) or "an unknown server"


def _axis(document: Document) -> tuple[str, str]:
    """What was varied, and what it is called."""
    if all("rate_rps" in level["offered"] for level in document["levels"]):
        return "rate_rps", "offered, requests/s"
    return "concurrency", "concurrent clients"


def _part(pages: Pages, group: Sequence[Document], key: str) -> list[Block]:
    first = group[0]
    told = first["load"]
    arrival = f"{told.get('arrival')} arrivals"
    cap = told.get("concurrency_cap")
    note = f"{arrival}{f', at most {cap} at once' if cap else ''}; {_server(first)}"
    series = series_of(pages, group)
    charts = [c for name, which in _DRAWN if (c := _times(key, name, which, group, series))]
    charts += [c] if (c := _share(key, group, series)) else []
    blocks: list[Block] = [Heading(", ".join(s.name for s in series), note)]
    blocks += [Charts(tuple(charts), series)] if charts else []
    pairs = zip(group, series, strict=True)
    return [*blocks, *(_table(document, one.name) for document, one in pairs)]


def _times(
    key: str, name: str, which: str, group: Sequence[Document], series: Sequence[Series]
) -> Chart | None:
    """A quantity over what is offered; a percentile only where it is told somewhere."""
    at, x_name = _axis(group[0])
    told = [q[which] for d in group for q in _of(d, name) if isinstance(q[which], int | float)]
    if not told:
        return None
    unit = seconds_unit(told, drawn=True)
    drawn = []
    for document, one in zip(group, series, strict=True):
        dots = []
        for level in document["levels"]:
            value = level[name][which]
            span = ends(level[name].get("interval" if which == "median" else f"{which}_interval"))
            if isinstance(value, int | float) and at in level["offered"]:
                scaled = (span[0] / unit.size, span[1] / unit.size) if span else None
                x = float(level["offered"][at])
                dots.append(Dot(x, value / unit.size, scaled, _flagged(level)))
        drawn.append(Curve(one, _sorted(dots)))
    bound = ((group[0]["slo"] or {}).get("objectives") or {}).get(name)
    frame = Frame(
        f"{key}-{name}-{which}",
        f"{NAMES[name]}, {which}",
        unit.name,
        x_name,
        bound=None if bound is None else bound / unit.size,
        bound_name=f"SLO, {number(float(bound) / unit.size)} {unit.name}" if bound else "",
    )
    return curves(frame, drawn)


def _share(key: str, group: Sequence[Document], series: Sequence[Series]) -> Chart | None:
    at, x_name = _axis(group[0])
    drawn = []
    for document, one in zip(group, series, strict=True):
        dots = _sorted(
            Dot(
                float(level["offered"][at]),
                level["attainment"]["value"],
                ends(level["attainment"]["interval"]),
                _flagged(level),
            )
            for level in document["levels"]
            if level["attainment"] and at in level["offered"]
        )
        drawn.append(Curve(one, dots))
    if not any(curve.dots for curve in drawn):
        return None
    target = float(group[0]["slo"]["attainment"])
    frame = Frame(
        f"{key}-share",
        "Requests within the SLO",
        "share of all requests",
        x_name,
        bound=target,
        bound_name=f"asked, {number(target)}",
        share=True,
    )
    return curves(frame, drawn)


def _sorted(dots: Iterable[Dot]) -> tuple[Dot, ...]:
    """From left to right: a search goes back and forth."""
    return tuple(sorted(dots, key=lambda dot: dot.x))


def _of(document: Document, name: str) -> list[Mapping[str, Any]]:
    return [level[name] for level in document["levels"]]


def _flagged(level: Mapping[str, Any]) -> bool:
    return bool(level["saturated"] or not level["valid"])


def _table(document: Document, name: str) -> Table:
    at, x_name = _axis(document)
    units = {k: seconds_unit(medians(_of(document, k))) for k in ("ttft_s", "tpot_s", "e2e_s")}
    rows = [
        (
            f"{level['offered'].get(at, 0):g}",
            number(level["achieved_rps"]),
            quantity(level["ttft_s"], units["ttft_s"]),
            percentile(level["ttft_s"], "p95", units["ttft_s"]),
            percentile(level["ttft_s"], "p99", units["ttft_s"]),
            quantity(level["tpot_s"], units["tpot_s"]),
            quantity(level["e2e_s"], units["e2e_s"]),
            _within(level),
            _answered(level["requests"]),
            _state(level),
        )
        for level in document["levels"]
    ]
    ttft = f"TTFT, {units['ttft_s'].name}"
    header = (
        *(x_name.capitalize(), "Answered, requests/s", ttft, "p95", "p99"),
        *(f"TPOT, {units['tpot_s'].name}", f"End to end, {units['e2e_s'].name}"),
        *("Within the SLO", "Answered", "State"),
    )
    return Table(f"Levels of {name}", header, tuple(rows), words=frozenset({9}))


def _within(level: Mapping[str, Any]) -> Cell:
    share = level["attainment"]
    return Cell(number(share["value"]), interval(share["interval"])) if share else Cell("–")


def _answered(requests: Mapping[str, Any]) -> Cell:
    failed = ", ".join(f"{n} {kind}" for kind, n in requests["failed"].items() if n)
    return Cell(f"{requests['ok']} of {requests['sent']}", failed, "bad" if failed else "")


def _state(level: Mapping[str, Any]) -> Cell:
    if not level["valid"]:
        return Cell("not valid", mark="bad")
    return Cell("saturated", mark="unsure") if level["saturated"] else Cell("steady", mark="quiet")
