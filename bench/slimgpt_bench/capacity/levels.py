"""From the raw requests of a load measurement to levels that any SLO can judge."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimgpt_bench.capacity.rate import Level
from slimgpt_bench.quantity import fewest, share_of
from slimgpt_bench.slo import OBJECTIVES, Slo

_P95 = 0.95
_TIMES = {"ttft_s": "ttft_s", "tpot_s": "tpot_s", "itl_s": "itl_max_s", "e2e_s": "e2e_s"}
"""Where a raw request has what an objective bounds."""

Request = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Raw:
    """One level as it was measured.

    Attributes:
        rate_rps: offered.
        duration_s: of the measured part.
        saturated: the queue grew.
        requests: of the measured part, in order of their sending.
        run: that it is of.
    """

    rate_rps: float
    duration_s: float
    saturated: bool
    requests: tuple[Request, ...]
    run: str = ""


def raw_levels(
    document: Mapping[str, Any], requests: Iterable[Request], run: str = ""
) -> tuple[list[Raw], list[str]]:
    """The open-loop levels of a load result that hold, and why others are left out.

    Args:
        document: of kind ``load``.
        requests: lines of its ``requests.jsonl``.
        run: what it is called.
    """
    by_level: dict[int, list[Request]] = {}
    for request in requests:
        if request.get("phase") == "measured":
            by_level.setdefault(int(request["level"]), []).append(request)
    found, left_out = [], []
    for index, level in enumerate(document["levels"]):
        rate = level["offered"].get("rate_rps")
        own = sorted(by_level.get(index, []), key=lambda x: float(x["scheduled_s"]))
        why = _unusable(level, rate, own)
        if why:
            left_out.append(f"level {index + 1} of it is left out: {why}")
        else:
            duration = float(level["duration_s"])
            found.append(Raw(float(rate), duration, level["saturated"], tuple(own), run))
    return found, left_out


def require_whole(request: Any) -> Request:
    """A line of ``requests.jsonl``, once all is there that a level is made of.

    Raises:
        ValueError: it is not, or a time is no finite number.
    """
    if not isinstance(request, dict) or not isinstance(request.get("ok"), bool):
        raise ValueError("a line is no request")
    always, if_known = ["level", "scheduled_s"], []
    if request["ok"]:
        always += ["ttft_s", "e2e_s"]
        if_known += ["tpot_s", "itl_max_s", "output_tokens"]
    for name in (*always, *if_known):
        value = request.get(name)
        number = isinstance(value, int | float) and math.isfinite(value)
        if not number and not (name in if_known and name in request and value is None):
            raise ValueError(f"{name} of a request is {value!r:.40}")
    return request


def _unusable(level: Mapping[str, Any], rate: object, requests: Sequence[Request]) -> str | None:
    if rate is None:
        return "a closed loop, which waits for answers and hides the queue"
    if not requests:
        return "it has no requests"
    if not (level["valid"] or _only_failed(level)):
        return "; ".join(level["problems"]) or "it is invalid"
    return None


def _only_failed(level: Mapping[str, Any]) -> bool:
    """Whether a level is invalid for its times alone: some requests failed, and count as misses."""
    requests, tokens = level["requests"], level["tokens"]
    wrong = level["client"].get("saturated") or len(level["problems"]) > 1
    wrong |= bool(tokens.get("usage_mismatches") or tokens.get("early_stops"))
    return not wrong and 0 < requests["ok"] < requests["sent"]


def judged(levels: Sequence[Raw], slo: Slo) -> list[Level]:
    """Levels under an SLO; those of equal rate are one."""
    by_rate: dict[float, list[Raw]] = {}
    for level in levels:
        by_rate.setdefault(round(level.rate_rps, 6), []).append(level)
    return [_judged(rate, same, slo) for rate, same in sorted(by_rate.items())]


def _judged(rate: float, same: Sequence[Raw], slo: Slo) -> Level:
    requests = [x for level in same for x in level.requests]
    duration = sum(level.duration_s for level in same)
    ok = [x for x in requests if x["ok"]]
    return Level(
        rate_rps=rate,
        attainment=share_of([meets(x, slo) for x in requests], slo.confidence),
        saturated=2 * sum(level.saturated for level in same) > len(same),
        in_flight=sum(float(x["e2e_s"]) for x in ok) / duration,
        misses=_misses(requests, slo),
        seconds={name: _times([x[raw] for x in ok]) for name, raw in _TIMES.items()},
        runs=len({level.run for level in same}),
        tokens_per_s=sum(int(x["output_tokens"] or 0) for x in ok) / duration,
    )


def meets(request: Request, slo: Slo) -> bool:
    """Whether one raw request meets every bound; a failed one meets none."""
    return bool(request["ok"]) and slo.met_by(
        ttft_s=request["ttft_s"],
        e2e_s=request["e2e_s"],
        tpot_s=request["tpot_s"],
        itl_s=request["itl_max_s"],
    )


def _misses(requests: Sequence[Request], slo: Slo) -> dict[str, int]:
    """How many missed each bound; one request may miss several."""
    found: Counter[str] = Counter()
    for request in requests:
        if not request["ok"]:
            found[f"failed: {request['failure']}"] += 1
            continue
        for name in OBJECTIVES:
            bound, value = getattr(slo, name), request[_TIMES[name]]
            if bound is not None and value is not None and value > bound:
                found[name] += 1
    return dict(found)


def _times(values: Sequence[float | None]) -> dict[str, float | None]:
    known = np.array([x for x in values if x is not None], dtype=np.float64)
    if not len(known):
        return {"median": None, "p95": None}
    p95 = float(np.quantile(known, _P95)) if len(known) >= fewest(_P95) else None
    return {"median": float(np.median(known)), "p95": p95}
