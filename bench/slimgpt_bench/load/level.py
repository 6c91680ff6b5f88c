"""From the records of one level to its part of the document."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from slimgpt_bench.intervals import INSUFFICIENT
from slimgpt_bench.load.client_state import ClientState, judge_client
from slimgpt_bench.load.options import LoadOptions
from slimgpt_bench.load.rates import Rates, by_littles_law, counted, window_s
from slimgpt_bench.load.record import Record
from slimgpt_bench.load.steady import Steadiness, Trend, growth, judge, slope
from slimgpt_bench.load.tokens import TokenCounts, count
from slimgpt_bench.load.window import Run
from slimgpt_bench.quantity import Quantity, Share, of_requests, share_of
from slimgpt_bench.slo import Slo

_OVERLOADED = ("timeout", "cancelled")
_BUSY = (429, 503)
_MOST_EXAMPLES = 10


@dataclass(frozen=True)
class Level:
    """One offered load, measured.

    Attributes:
        offered: ``rate_rps`` or ``concurrency``, as the document tells it.
        run: its records.
        quantities: by name.
        rates: what came, a second.
        attainment: share of requests that met the SLO; None without one.
        tokens: counts.
        client: its state.
        steady: whether the level held.
        failures: a row for each class and status, with an example.
    """

    offered: dict[str, float]
    run: Run
    quantities: dict[str, Quantity]
    rates: Rates
    attainment: Share | None
    tokens: TokenCounts
    client: ClientState
    steady: Steadiness
    failures: tuple[dict[str, Any], ...]
    accept_errors: float

    @property
    def duration_s(self) -> float:
        return window_s(self.run)

    @property
    def sent(self) -> int:
        return len(self.run.measured())

    @property
    def ok(self) -> int:
        return sum(x.ok for x in self.run.measured())

    @property
    def failed(self) -> dict[str, int]:
        """By class."""
        return dict(Counter(x.failure or "no_tokens" for x in self.run.measured() if not x.ok))

    @property
    def saturated(self) -> bool:
        return self.steady.saturated

    def faults(self) -> list[str]:
        """What makes this level's numbers unusable, a sentence each."""
        found = self.tokens.problems()
        if self.client.saturated:
            found.insert(0, f"the client was saturated: {'; '.join(self.client.reasons)}")
        if not self.sent:
            found.append("no request was due in the measured part: give more --duration")
        elif not self.ok:
            found.append(f"none of {self.sent} requests succeeded ({self._failed_words()})")
        elif self.sent - self.ok > self.accept_errors * self.sent:
            found.append(
                f"{self.sent - self.ok} of {self.sent} requests failed ({self._failed_words()}), "
                "and times are those of the others: --accept-errors takes a share of failures"
            )
        return found

    def _failed_words(self) -> str:
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.failed.items()))
        example = next((x["example"] for x in self.failures if x["example"]), "")
        return f"{kinds}: {example}" if example else kinds

    def to_json(self) -> dict[str, Any]:
        """An element of ``levels``."""
        faults = self.faults()
        told = {name: found.to_json() for name, found in self.quantities.items()}
        interval = self.rates.good_interval
        return {
            "offered": self.offered,
            "duration_s": self.duration_s,
            "achieved_rps": self.rates.answers,
            **{name: told[name] for name in QUANTITIES},
            "queue": told["queue_s"],
            "service": {
                "ttft_s": told["service_ttft_s"],
                "e2e_s": told["service_e2e_s"],
            },
            "requests": {"sent": self.sent, "ok": self.ok, "failed": self.failed},
            "failures": list(self.failures),
            "tokens": self.tokens.to_json(),
            "output_tokens_per_s": self.rates.tokens,
            "goodput_rps": self.rates.good,
            "goodput_interval": list(interval) if interval else INSUFFICIENT,
            "attainment": self.attainment.to_json() if self.attainment else None,
            "client": self.client.to_json(),
            "steady": self.steady.to_json(),
            "saturated": self.saturated,
            "valid": not faults,
            "problems": faults,
        }


QUANTITIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s")

_VALUES: dict[str, Callable[[Record], Sequence[float]]] = {
    "ttft_s": lambda x: [x.ttft_s],
    "tpot_s": lambda x: [] if x.tpot_s is None else [x.tpot_s],
    "itl_s": lambda x: x.gaps_s,
    "e2e_s": lambda x: [x.e2e_s],
    "service_ttft_s": lambda x: [x.service_ttft_s],
    "service_e2e_s": lambda x: [x.service_e2e_s],
}


def make_level(
    offered: dict[str, float], run: Run, options: LoadOptions, *, accept_errors: float
) -> Level:
    """Sums up a level.

    Args:
        offered: what was offered.
        run: its records.
        options: of the whole run.
        accept_errors: share of failures up to which it is valid.
    """
    measured = run.measured()
    ok = [x for x in measured if x.ok]
    quantities = {
        name: of_requests([values(x) for x in ok], seed=options.seed)
        for name, values in _VALUES.items()
    }
    quantities["queue_s"] = of_requests([[x.queue_s] for x in measured], seed=options.seed)
    typical = quantities["service_ttft_s"].median
    places = offered.get("concurrency")
    good = partial(meets, options.slo)
    return Level(
        offered=offered,
        run=run,
        quantities=quantities,
        rates=by_littles_law(run, int(places), good) if places else counted(run, good),
        attainment=_attainment(measured, options.slo),
        tokens=count(measured, ignore_eos=options.ignore_eos),
        client=judge_client(run, typical),
        steady=_steadiness(run, ok, quantities["ttft_s"].median, open_loop=not places),
        failures=_failures(measured),
        accept_errors=accept_errors,
    )


def meets(slo: Slo | None, record: Record) -> bool:
    """Whether a request met every bound; a failed one did not."""
    if not record.ok:
        return False
    if slo is None:
        return True
    return slo.met_by(
        ttft_s=record.ttft_s,
        e2e_s=record.e2e_s,
        tpot_s=record.tpot_s,
        itl_s=max(record.gaps_s, default=None),
    )


def _attainment(measured: Sequence[Record], slo: Slo | None) -> Share | None:
    if slo is None or not measured:
        return None
    return share_of([meets(slo, x) for x in measured], slo.confidence)


def _steadiness(run: Run, ok: Sequence[Record], typical: float, *, open_loop: bool) -> Steadiness:
    measured = run.measured()
    busy = sum(x.failure in _OVERLOADED or x.status in _BUSY for x in measured)
    overload = busy / len(measured) if measured else 0.0
    ttft = slope([x.scheduled for x in ok], [x.ttft_s for x in ok])
    if not open_loop:
        return Steadiness(ttft, Trend(), overload, saturated=False)
    line = growth(
        [x.scheduled for x in run.records],
        [math.inf if x.ended is None or x.failure == "cancelled" else x.ended for x in run.records],
        run.begin,
        run.end,
    )
    duration = window_s(run)
    return judge(
        ttft,
        line,
        overload,
        rate=len(measured) / duration,
        duration_s=duration,
        typical_s=typical,
    )


def _failures(measured: Sequence[Record]) -> tuple[dict[str, Any], ...]:
    kinds = Counter((x.failure, x.status) for x in measured if x.failure)
    found = []
    for (kind, status), number in kinds.most_common(_MOST_EXAMPLES):
        example = next(x.detail for x in measured if (x.failure, x.status) == (kind, status))
        found.append({"class": kind, "status": status, "count": number, "example": example})
    return tuple(found)
