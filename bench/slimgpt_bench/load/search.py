"""The search for the highest rate that meets an SLO, by what intervals allow to say."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from slimgpt_bench.load.level import Level
from slimgpt_bench.quantity import Resolution
from slimgpt_bench.slo import Slo

RESOLUTION = 1.1
"""Ratio of the lowest rate that is too high to the highest that is met: closer is noise."""
LONGEST = 20
"""A probe may take so many times --duration, for a low rate has few requests."""
_LONGER = 3
_TRIES = 2
_STARVED_TRIES = 3
"""Of a probe in which other processes kept the client from running: that is no limit of its own."""
_MARGIN = 2.0
_MOST_PROBES = 20
_HALVINGS = 6
_SINGLE = 20
_START_SHARE = 0.5

Verdict = Resolution | Literal["client"]
Open = Callable[[float, float], Awaitable[Level]]
"""Measures an open loop: rate, and seconds."""
Closed = Callable[[int, int], Awaitable[Level]]
"""Measures a closed loop: places, and requests."""
Gone = Callable[[], Awaitable[bool]]
"""Whether the server does not answer any more."""


async def _never() -> bool:
    return False


@dataclass(slots=True)
class Found:
    """What the search came to.

    Attributes:
        rate_rps: highest rate that met the SLO with its lower bound; None for none.
        too_high_rps: lowest rate that missed it or could not be told; None where none was tried
            before the client or the server ended the search.
        best: highest share of requests that met every bound, of all that was tried.
        probes: rate, seconds and verdict of each.
        why: what ended it.
    """

    rate_rps: float | None = None
    too_high_rps: float | None = None
    best: float = 0.0
    probes: list[dict[str, Any]] = field(default_factory=list)
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "slo",
            "rate_rps": self.rate_rps,
            "too_high_rps": self.too_high_rps,
            "best_attainment": self.best,
            "probes": self.probes,
            "why": self.why,
        }


def fewest_requests(slo: Slo) -> int:
    """Requests that, if all meet every bound, put the lower end of their share at its target."""
    return math.ceil(math.log((1 - slo.confidence) / 2) / math.log(slo.attainment))


def judge(level: Level, slo: Slo) -> Verdict:
    """Whether a level met the SLO, missed it, or can't tell."""
    if level.client.saturated:
        return "client"
    if not level.ok or level.attainment is None:
        return "missed" if level.sent else "unresolved"
    found = level.attainment.against(slo.attainment)
    # A line that grows has not missed the bounds yet, and will.
    return "missed" if level.saturated else found


class Search:
    """Doubles the rate while the SLO is met, then halves the distance.

    Args:
        slo: to be met.
        duration_s: of a probe, at least.
        open_loop: measures a rate.
        closed_loop: measures one request at a time.
        gone: asked where no request was answered.
    """

    def __init__(
        self,
        slo: Slo,
        duration_s: float,
        open_loop: Open,
        closed_loop: Closed,
        gone: Gone = _never,
    ) -> None:
        self._slo, self._duration_s = slo, duration_s
        self._open, self._closed, self._gone = open_loop, closed_loop, gone
        self.found = Found()

    async def run(self, start: float | None) -> Found:
        """Searches from a rate; without one, from half of what one request at a time gives."""
        alone, verdict = await self._measured({"concurrency": 1}, lambda: self._closed(1, _SINGLE))
        if verdict == "missed":
            self.found.why = "even one request at a time misses the SLO"
        elif verdict == "client":
            self.found.why = self._client_limit(alone, "by one request at a time")
        if self.found.why:
            return self.found
        begin = start or _START_SHARE / max(alone.quantities["e2e_s"].median, 1e-6)
        await self._bracket(begin)
        await self._bisect()
        return self.found

    async def _bracket(self, rate: float) -> None:
        """Until one rate is met and another is not."""
        halvings = 0
        while len(self.found.probes) < _MOST_PROBES:
            verdict = await self._probe(rate)
            if self.found.why:
                return
            if verdict == "met":
                self.found.rate_rps = rate
                if self.found.too_high_rps is not None:
                    return
                rate *= 2
                continue
            self.found.too_high_rps = rate
            halvings += 1
            if self.found.rate_rps is not None:
                return
            if halvings > _HALVINGS:
                self.found.why = f"no rate down to {rate:g} requests a second meets the SLO"
                return
            rate /= 2
        self.found.why = f"{_MOST_PROBES} probes were not enough"

    async def _bisect(self) -> None:
        while (
            not self.found.why
            and self.found.rate_rps is not None
            and self.found.too_high_rps is not None
            and self.found.too_high_rps / self.found.rate_rps > RESOLUTION
            and len(self.found.probes) < _MOST_PROBES
        ):
            rate = float(f"{math.sqrt(self.found.rate_rps * self.found.too_high_rps):.4g}")
            verdict = await self._probe(rate)
            if verdict == "met":
                self.found.rate_rps = rate
            elif not self.found.why:
                self.found.too_high_rps = rate
        if len(self.found.probes) >= _MOST_PROBES:
            self.found.why = self.found.why or f"{_MOST_PROBES} probes were not enough"

    async def _probe(self, rate: float) -> Verdict:
        """Measures a rate, and longer where that does not tell; sets ``why`` to end the search."""
        longest = LONGEST * self._duration_s
        seconds = min(longest, max(self._duration_s, _MARGIN * fewest_requests(self._slo) / rate))
        for _ in range(_TRIES):
            level, verdict = await self._measured(
                {"rate_rps": rate, "duration_s": seconds},
                partial(self._open, rate, seconds),
            )
            if verdict != "unresolved":
                break
            seconds = min(longest, _LONGER * seconds)
        if verdict == "client":
            self.found.why = self._client_limit(level, f"at {rate:g} requests a second")
        elif not level.ok and await self._gone():
            self.found.why = f"the server was gone at {rate:g} requests a second"
        return verdict

    async def _measured(
        self, offered: dict[str, float], measure: Callable[[], Awaitable[Level]]
    ) -> tuple[Level, Verdict]:
        """A probe; again where the client was kept from running, which says nothing of the rate."""
        for _ in range(_STARVED_TRIES):
            level = await measure()
            verdict = judge(level, self._slo)
            self._note(offered, level, verdict)
            if not level.client.starved:
                break
        return level, verdict

    @staticmethod
    def _client_limit(level: Level, where: str) -> str:
        if level.client.starved:
            return (
                f"other processes kept the client from running {where}, {_STARVED_TRIES} times in "
                "a row: leave it a core of its own"
            )
        return f"the client is saturated {where}"

    def _note(self, offered: dict[str, float], level: Level, verdict: Verdict) -> None:
        share = level.attainment.value if level.attainment else 0.0
        self.found.best = max(self.found.best, share)
        told = {"attainment": share, "saturated": level.saturated, "verdict": verdict}
        self.found.probes.append({**offered, **told})
