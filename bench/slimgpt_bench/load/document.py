"""The document of a load run: its levels, and what is wrong with the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slimgpt_bench.artefact import Artefact
from slimgpt_bench.load.level import QUANTITIES, Level
from slimgpt_bench.load.options import LoadOptions
from slimgpt_bench.load.target import Target
from slimgpt_bench.provenance import PACKAGES, environment
from slimgpt_bench.quantity import fewest
from slimgpt_bench.results import envelope
from slimgpt_bench.workload.workload import Workload

_REQUIRED = ("ttft_s", "e2e_s", "tpot_s")
_SHARES = {"p95": 0.95, "p99": 0.99}
_OF_ONE_TOKEN = "tpot_s"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the levels came about.

    Attributes:
        gone: the server did not answer any more at the end.
        unmeasured: levels that were asked for.
        search: of a sweep or a search.
    """

    gone: bool = False
    unmeasured: Sequence[Mapping[str, float]] = field(default_factory=list)
    search: dict[str, Any] | None = None


def document(
    target: Target,
    artefact: Artefact | None,
    workload: Workload,
    options: LoadOptions,
    levels: Sequence[Level],
    plan: Plan,
) -> dict[str, Any]:
    """What ``--json`` prints and ``--save`` keeps."""
    problems = _problems(target, options, levels, plan)
    told = [level.to_json() for level in levels]
    first = told[0]
    return envelope(
        "load",
        artefact=artefact.to_json() if artefact else None,
        workload=workload.to_json(),
        environment=environment(packages=("aiohttp", *PACKAGES)),
        valid=not problems,
        problems=problems,
        target=target.to_json() | {"verified": _verified(target, artefact)},
        load=_load(options, plan),
        slo=options.slo.to_json() if options.slo else None,
        levels=told,
        search=plan.search,
        **{name: first[name] for name in (*QUANTITIES, "requests", "goodput_rps")},
    )


def _verified(target: Target, artefact: Artefact | None) -> bool:
    """Whether the server said itself that it serves the artefact."""
    return artefact is not None and target.digest == artefact.digest


def _load(options: LoadOptions, plan: Plan) -> dict[str, Any]:
    return {
        "arrival": options.arrival_kind,
        "burstiness": options.burstiness,
        "concurrency_cap": options.concurrency_cap,
        "duration_s": options.duration_s,
        "requests": options.requests,
        "warmup": {"requests": options.before.requests, "seconds": options.before.seconds},
        "endpoint": options.endpoint,
        "timeout_s": options.timeout_s,
        "accept_errors": options.accept_errors,
        "seed": options.seed,
        "unmeasured": [dict(x) for x in plan.unmeasured],
    }


def named(offered: Mapping[str, float]) -> str:
    """A level in words."""
    if "rate_rps" in offered:
        return f"{offered['rate_rps']:g}/s"
    if "concurrency" in offered:
        return f"{offered['concurrency']:g} at a time"
    return f"{offered['requests']:g} at once"


def _problems(
    target: Target, options: LoadOptions, levels: Sequence[Level], plan: Plan
) -> list[str]:
    found = []
    for level in levels:
        if _counts(level, options, plan):
            found += [f"at {named(level.offered)}: {x}" for x in level.faults()]
            found += _missing(level, options)
    if plan.gone:
        found.append(f"the server at {target.url} was gone before the end")
    if plan.unmeasured:
        found.append(
            f"levels that were not measured: {', '.join(named(x) for x in plan.unmeasured)}"
        )
    return found + _not_found(plan)


def _counts(level: Level, options: LoadOptions, plan: Plan) -> bool:
    """Whether the result rests on a level; what a search tried beyond the server does not."""
    if options.mode != "search" or not plan.search:
        return True
    rate = plan.search["rate_rps"]
    return level.offered.get("rate_rps") == rate or bool(level.tokens.problems())


def _missing(level: Level, options: LoadOptions) -> list[str]:
    """What --require asks for and the level has too few requests for."""
    if options.require is None:
        return []
    need = fewest(_SHARES[options.require])
    short = [
        name
        for name in _REQUIRED
        if level.quantities[name].percentiles[options.require] is None
        and (name != _OF_ONE_TOKEN or level.quantities[name].n)
    ]
    if not short:
        return []
    seconds = math.ceil(need / max(level.ok, 1) * level.duration_s)
    return [
        f"at {named(level.offered)}: --require {options.require} needs {need} answers, and there "
        f"are {level.ok}: give --requests {need}, or --duration {seconds}"
    ]


def _not_found(plan: Plan) -> list[str]:
    """Why a search has no rate to tell."""
    search = plan.search
    if not search or search["kind"] != "slo":
        return []
    if search["rate_rps"] is not None:
        return _open_ended(search) + _met_above(search)
    return [
        f"--find-rate found no rate that meets the SLO: {search['why']}; at best "
        f"{search['best_attainment']:.1%} of the requests met every bound"
    ]


def _met_above(search: Mapping[str, Any]) -> list[str]:
    """A server does not get faster with more to do: the machine changed while it was searched."""
    rates = [
        x["rate_rps"]
        for x in search["probes"]
        if x.get("verdict") == "met" and x.get("rate_rps", 0) > search["rate_rps"]
    ]
    if not rates:
        return []
    return [
        f"--find-rate: {max(rates):g} requests a second met the SLO and a lower rate did not, so "
        "that something else slowed the server meanwhile: measure again when it has no other work"
    ]


def _open_ended(search: Mapping[str, Any]) -> list[str]:
    """A rate that meets the SLO is not the highest where nothing above it was seen to miss."""
    if search["too_high_rps"] is not None:
        return []
    return [
        f"--find-rate: {search['rate_rps']:g} requests a second meet the SLO, and perhaps more do: "
        f"{search['why']}"
    ]
