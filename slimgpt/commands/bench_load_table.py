"""A load run for people: a row a level, what else is to be said of each, and the protocol."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def shown(document: Mapping[str, Any]) -> Group:
    """The document, rendered."""
    words: Any = importlib.import_module("slimgpt_bench.load.document")
    table = Table(box=None, pad_edge=False)
    table.add_column("load", no_wrap=True)
    for name in ("TTFT ms", "95 %", "p95", "p99", "TPOT ms", "E2E ms", "answers/s", "good/s"):
        table.add_column(name, justify="right", no_wrap=True)
    answered = ["{ok}/{sent}".format_map(x["requests"]) for x in document["levels"]]
    # A narrow terminal may cut "insufficient", but no number.
    table.add_column("ok", justify="right", no_wrap=True, min_width=max(map(len, answered)))
    for level, ok in zip(document["levels"], answered, strict=True):
        table.add_row(
            words.named(level["offered"]),
            *_quantity(level["ttft_s"]),
            *(_ms(level[name]["median"]) for name in ("tpot_s", "e2e_s")),
            f"{level['achieved_rps']:.2f}",
            f"{level['goodput_rps']:.2f}",
            ok,
        )
    told = [_marks(words.named(x["offered"]), x) for x in document["levels"]]
    told = [line for line in (*told, _search(document), _protocol(document)) if line]
    return Group(table, *map(Text, told))


def _quantity(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    interval = found["interval"]
    ends = interval if isinstance(interval, str) else " to ".join(map(_ms, interval))
    return _ms(found["median"]), ends, _ms(found["p95"]), _ms(found["p99"])


def _ms(seconds: float | str) -> str:
    if isinstance(seconds, str):
        return seconds
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _marks(name: str, level: Mapping[str, Any]) -> str:
    """What else is to be said of a level; empty for nothing."""
    share = level["attainment"]
    marks = []
    if share:
        low, high = share["interval"]
        marks.append(f"SLO met by {share['value']:.1%} ({low:.1%} to {high:.1%})")
    requests = level["requests"]
    if requests["failed"]:
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(requests["failed"].items()))
        marks.append(f"{requests['sent'] - requests['ok']} of {requests['sent']} failed ({kinds})")
    marks += ["saturated"] if level["saturated"] else []
    marks += [] if level["valid"] else ["invalid"]
    return f"{name}: {', '.join(marks)}" if marks else ""


def _search(document: Mapping[str, Any]) -> str:
    search = document["search"]
    if not search:
        return ""
    if search["kind"] == "sweep":
        why = f" ({search['why']})" if search["why"] else ""
        return f"saturation: {search['saturation_rps']:.3g} answers a second{why}"
    if search["rate_rps"] is None:
        return f"no rate meets the SLO: {search['why']}"
    beyond = search["too_high_rps"]
    parts = [f"{beyond:.4g} was not shown to"] if beyond else []
    bound = "; ".join([*parts, *filter(None, [search["why"]])])
    return f"highest rate that meets the SLO: {search['rate_rps']:.4g} requests a second ({bound})"


def _protocol(document: Mapping[str, Any]) -> str:
    load, target = document["load"], document["target"]
    asked = document["workload"]
    lengths = [
        f"{asked[name]['mean']:.0f} {word} tokens"
        for name, word in (("prompt_tokens", "prompt"), ("output_tokens", "output"))
        if asked[name]
    ]
    loop = "closed loop" if load["arrival"] == "closed" else f"{load['arrival']} arrivals"
    seed = f"seed {load['seed']}"
    parts = [f"{target['model']} at {target['url']}", loop, *lengths, seed]
    if load["concurrency_cap"]:
        parts.append(f"at most {load['concurrency_cap']} under way")
    return ", ".join(parts) + "; times run from the scheduled send"
