"""The sweep: what the server can do at most, and then levels at shares of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from slimgpt.errors import Unresolved
from slimgpt_bench.load.level import Level

SHARES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1)
"""Of the saturation: where latency begins to bend, and one level beyond."""
LEAST_GAIN = 1.05
"""More places that bring less are no gain."""
MOST_PLACES = 256
_FLAT = 2
"""Doublings in a row without gain that end the search: one short probe may be slow by chance."""
_ROUNDS = 6
_FEWEST = 12
_STARVED_TRIES = 3
"""Of a probe in which other processes kept the client from running."""

Closed = Callable[[int, int], Awaitable[Level]]
"""Measures a closed loop: places, and requests."""


@dataclass(slots=True)
class Saturation:
    """What a server did at most.

    Attributes:
        rate_rps: answers a second.
        probes: what was tried, in order.
        why: what ended the search other than that more places brought no more: it may be higher.
    """

    rate_rps: float = 0.0
    probes: list[dict[str, Any]] = field(default_factory=list)
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "sweep",
            "saturation_rps": self.rate_rps,
            "probes": self.probes,
            "why": self.why,
        }

    def rates(self) -> list[float]:
        """Of the levels, to three digits."""
        return [float(f"{share * self.rate_rps:.3g}") for share in SHARES]


async def find_saturation(measure: Closed) -> Saturation:
    """Doubles the requests under way until that brings no more answers a second.

    Raises:
        Unresolved: no request was answered.
    """
    found, places, flat = Saturation(), 1, 0
    while places <= MOST_PLACES:
        level = await _probed(measure, places, found)
        best = found.rate_rps
        found.rate_rps = max(best, level.rates.answers)
        if level.ok < level.sent:
            found.why = f"of {places} requests at a time the server failed some"
        elif level.client.saturated:
            who = "other processes kept the client from running" if level.client.starved else ""
            found.why = f"{who or 'the client was saturated'} with {places} requests at a time"
        flat = flat + 1 if level.rates.answers < LEAST_GAIN * best else 0
        if found.why or flat == _FLAT:
            break
        places *= 2
    if not found.rate_rps:
        raise Unresolved(
            "--sweep: no request was answered, so there is no saturation to take shares of"
        )
    return found


async def _probed(measure: Closed, places: int, found: Saturation) -> Level:
    """A probe; again where the client was kept from running, which says nothing of the server."""
    for _ in range(_STARVED_TRIES):
        level = await measure(places, max(_FEWEST, _ROUNDS * places))
        found.probes.append(
            {
                "concurrency": places,
                "achieved_rps": level.rates.answers,
                "requests": {"sent": level.sent, "ok": level.ok, "failed": level.failed},
                "client_saturated": level.client.saturated,
            }
        )
        if not level.client.starved:
            break
    return level
