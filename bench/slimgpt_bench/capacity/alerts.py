"""Prometheus alert rules from the SLO and the plan: every threshold follows from one of the two.

The alerts on times are those of Google's Site Reliability Workbook, chapter 5: several windows and
burn rates. The error budget is the share of requests that may miss; a burn rate of 14.4 for an hour
spends 2 % of that of 30 days.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slimgpt_bench.capacity.number import plain
from slimgpt_bench.capacity.server_metrics import Objective, ServerMetrics, metrics_of
from slimgpt_bench.capacity.side import Side
from slimgpt_bench.slo import Slo

JOB = "slimgpt-serve"
"""``job_name`` of the scrapes in docker/prometheus."""

_OBJECTIVES: dict[Objective, tuple[str, str]] = {
    "ttft_s": ("FirstToken", "time to first token"),
    "tpot_s": ("TokenTime", "time per output token"),
    "e2e_s": ("WholeAnswer", "time to the last token"),
}


@dataclass(frozen=True, slots=True)
class Burn:
    """A pair of windows: the long one says that it matters, the short one that it still goes on."""

    name: str
    long: str
    short: str
    rate: float
    severity: str


BURNS = (
    Burn("Fast", "1h", "5m", 14.4, "critical"),
    Burn("Steady", "6h", "30m", 6.0, "critical"),
    Burn("Slow", "3d", "6h", 1.0, "warning"),
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is written.

    Attributes:
        rules: as Prometheus reads them.
        notes: what could not be expressed, and what bucket stands for which bound.
    """

    rules: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def make_rules(side: Side, slo: Slo) -> Rules:
    """All rules of a plan, for the server of its artefact."""
    metrics = metrics_of(side.replica.engine)
    notes: list[str] = []
    rules = [*_objectives(metrics, slo, notes), *_failures(metrics, slo)]
    rules += [*_queue(metrics, side, slo), *_cache(metrics, side), *_fleet(metrics, side)]
    return Rules(tuple(rules), tuple(notes))


def _objectives(metrics: ServerMetrics, slo: Slo, notes: list[str]) -> Iterator[dict[str, Any]]:
    for objective, (name, words) in _OBJECTIVES.items():
        bound = getattr(slo, objective)
        if bound is None:
            continue
        bucket = metrics.bucket(objective, bound)
        if bucket is None:
            notes.append(
                f"{objective} {bound:g}: no alert, since the smallest bucket of "
                f"{metrics.histogram(objective)} is {metrics.buckets[objective][0]:g} s"
            )
            continue
        if bucket != bound:
            notes.append(
                f"{objective} {bound:g}: counted at the bucket {bucket:g} s, the nearest below, so "
                "that alerts come early rather than late"
            )
        for burn in BURNS:
            yield from _burning(metrics, slo, objective, bucket, burn, name, words, notes)
    if slo.itl_s is not None:
        notes.append(
            f"itl_s {slo.itl_s:g}: no alert, since no metric tells the largest gap of a request"
        )


def _burning(
    metrics: ServerMetrics,
    slo: Slo,
    objective: Objective,
    bucket: float,
    burn: Burn,
    name: str,
    words: str,
    notes: list[str],
) -> Iterator[dict[str, Any]]:
    limit = burn.rate * (1 - slo.attainment)
    if limit >= 1:
        notes.append(
            f"{objective}: no alert {name}{burn.name}, since {burn.rate:g} times the budget of "
            f"{1 - slo.attainment:.3g} is more than all requests"
        )
        return
    histogram = metrics.histogram(objective)

    def missing(window: str) -> str:
        met = f'sum(rate({histogram}_bucket{{le="{bucket}"}}[{window}]))'
        return f"1 - {met} / sum(rate({histogram}_count[{window}]))"

    yield _rule(
        f"{name}{burn.name}Burn",
        f"({missing(burn.long)}) > {limit:.6g} and ({missing(burn.short)}) > {limit:.6g}",
        burn.severity,
        f"{{{{ $value | humanizePercentage }}}} of requests miss the bound on {words}",
        f"The objective allows {1 - slo.attainment:.3g} of all requests; at {burn.rate:g} times "
        f"that, its budget of 30 days is gone in {30 / burn.rate:.3g} days.",
    )


def _failures(metrics: ServerMetrics, slo: Slo) -> Iterator[dict[str, Any]]:
    budget = 1 - slo.attainment
    share = f"sum(rate({metrics.failed}[5m])) / sum(rate({metrics.ended}[5m]))"
    yield _rule(
        "RequestsFail",
        f"{share} > {budget:.6g}",
        "critical",
        "{{ $value | humanizePercentage }} of requests fail",
        f"A failed request misses every bound, and {budget:.3g} of all may; the log says why.",
        lasting="5m",
    )


def queue_limit(side: Side, slo: Slo) -> int | None:
    """Waiting requests of one replica of which the last waits for as long as a bound allows.

    By Little's law a queue of n leaves after n / rate seconds; None without such a bound.
    """
    bound = slo.ttft_s or slo.e2e_s
    rate = side.plan.per_replica_rps.value
    if bound is None or rate is None:
        return None
    return max(1, math.floor(bound * rate))


def _queue(metrics: ServerMetrics, side: Side, slo: Slo) -> Iterator[dict[str, Any]]:
    limit = queue_limit(side, slo)
    if limit is None:
        return
    yield _rule(
        "QueueTooLong",
        f"max by (instance) (avg_over_time({metrics.waiting}[5m])) > {limit}",
        "warning",
        "{{ $labels.instance }} has {{ $value | humanize }} requests waiting",
        f"More than {limit} wait longer than the objective allows for all of it, at the planned "
        f"{plain(side.plan.per_replica_rps.value or 0.0)} requests/s of a replica.",
        lasting="5m",
    )


def _cache(metrics: ServerMetrics, side: Side) -> Iterator[dict[str, Any]]:
    """vLLM shares one pool; the ONNX server's slots have their own, which can't run out."""
    if side.replica.engine == "onnx":
        return
    limit = 1 - side.fluid.longest_tokens / side.replica.kv_tokens
    if limit <= 0:
        return
    yield _rule(
        "CacheFull",
        f"min_over_time({metrics.kv_usage}[10m]) > {limit:.4g}",
        "warning",
        "{{ $labels.instance }} has no room for one more long request",
        f"{side.fluid.longest_tokens:,.0f} tokens (p95 of the traffic) of "
        f"{side.replica.kv_tokens:,} don't fit: requests will wait or be preempted.",
    )


def _fleet(metrics: ServerMetrics, side: Side) -> Iterator[dict[str, Any]]:
    demand = side.plan.demand.value or 0.0
    found = side.rate.bounds
    rate = (found.lower if side.rate.measured else found.point).value or 0.0
    yield _rule(
        "TrafficBeyondPlan",
        f"sum(rate({metrics.ended}[15m])) > {demand:.6g}",
        "warning",
        "{{ $value | humanize }} requests a second are more than the plan is for",
        f"The plan is for {plain(demand)}, growth and headroom among them: plan again.",
        lasting="15m",
    )
    yield _rule(
        "ReplicasOverloaded",
        f'sum(rate({metrics.ended}[5m])) / count(up{{job="{JOB}"}} == 1) > {rate:.6g}',
        "critical",
        "each replica that is up gets {{ $value | humanize }} requests a second",
        f"More than {plain(rate)} is not known to meet the objective: replicas are missing.",
        lasting="5m",
    )


def _rule(
    name: str, expression: str, severity: str, summary: str, description: str, lasting: str = ""
) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": name, "expr": expression}
    if lasting:
        rule["for"] = lasting
    rule["labels"] = {"severity": severity}
    rule["annotations"] = {"summary": summary, "description": description}
    return rule
