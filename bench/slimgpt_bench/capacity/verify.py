"""A plan held against a live replica: what it was to do at its planned rate, and what it does."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from slimgpt.errors import GateMissed, SlimGPTError, Unresolved
from slimgpt.progress import Progress
from slimgpt_bench.capacity.levels import judged, raw_levels
from slimgpt_bench.capacity.number import plain
from slimgpt_bench.capacity.rate import Level
from slimgpt_bench.capacity.side import Side, Terms
from slimgpt_bench.intervals import INSUFFICIENT
from slimgpt_bench.load.options import LoadOptions, Warmup
from slimgpt_bench.load.search import fewest_requests
from slimgpt_bench.slo import Slo
from slimgpt_bench.workload.arrivals import Arrivals

_TIMES = ("ttft_s", "tpot_s", "e2e_s")
_SPREADS = ("median", "p95")
_THROUGHPUT = "output_tokens_per_s"
_WARMUP = 0.1
"""Part of the duration that is sent before it."""

Figures = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Verification:
    """One run at the planned rate.

    Attributes:
        rate_rps: that was offered.
        predicted: attainment, times, tokens a second.
        measured: likewise.
        level: that was measured; None where the run was invalid.
        document: of the load run.
        requests: of it, raw.
        slo: that decides.
    """

    rate_rps: float
    predicted: Figures
    measured: Figures
    level: Level | None
    document: Mapping[str, Any]
    requests: Sequence[Mapping[str, Any]]
    slo: Slo

    @property
    def error(self) -> Figures:
        """Relative: (measured - predicted) / predicted; None where either is unknown."""
        return {name: _relative(self.measured.get(name), x) for name, x in self.predicted.items()}

    @property
    def shown(self) -> str:
        """The address, without a password in it."""
        return str(self.document["target"]["url"])

    @property
    def problem(self) -> SlimGPTError | None:
        """Why the plan does not stand."""
        if self.level is None:
            why = "; ".join(self.document["problems"]) or "no level was valid"
            return Unresolved(f"--verify {self.shown}: the run is invalid: {why}")
        found = self.level.against(self.slo)
        if found == "met":
            return None
        share = self.level.attainment
        low, high = share.interval
        words = (
            f"--verify {self.shown}: at the planned {plain(self.rate_rps)} requests/s "
            f"{share.value:.1%} of {share.n} requests meet the SLO, {low:.1%} to {high:.1%}, and "
            f"{self.slo.attainment:.1%} must"
        )
        if found == "missed":
            return GateMissed(
                f"{words}: the plan is refuted",
                measured=share.value,
                limit=self.slo.attainment,
            )
        least = fewest_requests(self.slo) / self.rate_rps
        return Unresolved(f"{words}: give a longer --duration, {least:,.0f} s at the very least")

    def to_json(self) -> dict[str, Any]:
        return {
            "url": self.shown,
            "rate_rps": self.rate_rps,
            "resolution": self.level.against(self.slo) if self.level else "unresolved",
            "level": self.level.to_json(self.slo) if self.level else None,
            "predicted": _told(self.predicted),
            "measured": _told(self.measured),
            "error": _told(self.error),
            "requests": dict(self.document["requests"]),
            "problems": list(self.document["problems"]),
        }


def verify(
    url: str,
    side: Side,
    terms: Terms,
    duration_s: float,
    progress: Progress,
    *,
    api_key: str | None = None,
) -> Verification:
    """Offers the planned rate of one replica, with the traffic's own lengths and arrivals.

    Raises:
        EnvironmentProblem: the replica does not answer.
        UsageError: it serves another model.
    """
    from slimgpt_bench.load.job import run_load  # needs an extra that planning does without

    rate = side.plan.per_replica_rps.value or 0.0
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "planned.jsonl"
        warmup = _WARMUP * duration_s
        _write_trace(trace, terms, rate, warmup + duration_s)
        options = LoadOptions(
            trace=trace,
            warmup=Warmup(0, warmup),
            slo=terms.slo,
            artefact=side.artefact.directory,
            api_key=api_key,
            seed=terms.seed,
        )
        result = run_load(url, options, progress)
    levels = judged(raw_levels(result.document, result.requests)[0], terms.slo)
    level = levels[0] if levels else None
    return Verification(
        rate_rps=rate,
        predicted=predict(side, terms, rate),
        measured=_of_level(level) if level else {},
        level=level,
        document=result.document,
        requests=result.requests,
        slo=terms.slo,
    )


def _write_trace(path: Path, terms: Terms, rate: float, duration_s: float) -> None:
    """Arrivals and lengths as planned, whatever distribution they come from."""
    kind = "poisson" if terms.traffic.burstiness == 1 else "gamma"
    arrivals = Arrivals(rate, kind, terms.traffic.burstiness).times(terms.seed)
    times = list(takewhile(lambda t: t < duration_s, arrivals))
    lengths = terms.traffic.requests(max(1, len(times)), terms.seed)
    rows: Iterable[dict[str, Any]] = (
        {"at_s": at, "prompt_tokens": int(prompt), "output_tokens": int(output)}
        for at, (prompt, output) in zip(times or [0.0], lengths, strict=True)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def predict(side: Side, terms: Terms, rate: float) -> dict[str, float | None]:
    """What a replica does at a rate, between what was measured below and above, or by the model."""
    if not side.rate.measured:
        return _modelled(side, terms, rate)
    known = [_of_level(level) for level in side.rate.levels]
    rates = [level.rate_rps for level in side.rate.levels]
    found: dict[str, float | None] = {}
    for name in known[0]:
        pairs = [(r, x[name]) for r, x in zip(rates, known, strict=True) if x[name] is not None]
        if name == _THROUGHPUT:
            pairs = [(0.0, 0.0), *pairs]  # without requests there are no tokens
        if pairs:
            at, values = np.array(pairs, dtype=np.float64).T
            found[name] = float(np.interp(rate, at, values))
        else:
            found[name] = None
    return found


def _modelled(side: Side, terms: Terms, rate: float) -> dict[str, float | None]:
    fluid = side.likely
    state = fluid.at(rate)
    if state is None:
        return {"attainment": 0.0}
    found: dict[str, float | None] = {"attainment": fluid.attainment(rate, terms.slo)}
    for name, values in (("ttft_s", state.ttft_s), ("e2e_s", state.e2e_s)):
        found[f"{name}.median"] = float(np.median(values))
        found[f"{name}.p95"] = float(np.quantile(values, 0.95))
    found |= {"tpot_s.median": state.tpot_s, "tpot_s.p95": state.tpot_s}
    return found | {_THROUGHPUT: rate * (fluid.later_tokens + 1)}


def _of_level(level: Level) -> dict[str, float | None]:
    found: dict[str, float | None] = {"attainment": level.attainment.value}
    for name in _TIMES:
        found |= {f"{name}.{spread}": level.seconds[name][spread] for spread in _SPREADS}
    return found | {_THROUGHPUT: level.tokens_per_s}


def _relative(measured: float | None, predicted: float | None) -> float | None:
    if measured is None or not predicted:
        return None
    return (measured - predicted) / predicted


def _told(figures: Figures) -> dict[str, float | str]:
    return {name: INSUFFICIENT if x is None else x for name, x in figures.items()}
