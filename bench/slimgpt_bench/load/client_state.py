"""Whether the client kept up: if it did not, the numbers are its own and not the server's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimgpt_bench.load.window import Run

LEAST_LATE_S, LATE_SHARE = 0.005, 0.05
"""Seconds, and share of the median time to first token: a client that is later than the larger of
them half of the time is a part of what it measures."""
LEAST_TAIL_S, TAIL_SHARE = 0.05, 0.25
"""Likewise, for its 95th percentile: a busy machine wakes anyone late now and then."""
FEWEST = 20
"""Looks and requests for a 95th percentile; of fewer nothing is said."""
BUSY_SHARE, IDLE_SHARE = 0.9, 0.5
"""Of a core: beyond it an event loop has a queue of its own."""

_PERCENTILES = {"p50": "median", "p95": "95th percentile"}


@dataclass(frozen=True, slots=True)
class ClientState:
    """What was seen of the client.

    Attributes:
        late_s: 50th and 95th percentile and largest of how late it came to requests.
        lag_s: the same of its event loop.
        cpu_share: of one core.
        limits_s: what both should stay below, by percentile.
        reasons: why it was saturated; empty where it was not.
        starved: it was late although it had little to do: other processes took its core.
    """

    late_s: dict[str, float]
    lag_s: dict[str, float]
    cpu_share: float
    limits_s: dict[str, float]
    reasons: tuple[str, ...]
    starved: bool = False

    @property
    def saturated(self) -> bool:
        return bool(self.reasons)

    def to_json(self) -> dict[str, Any]:
        return {
            "late_s": self.late_s,
            "loop_lag_s": self.lag_s,
            "cpu_share": self.cpu_share,
            "limits_s": self.limits_s,
            "saturated": self.saturated,
            "starved": self.starved,
            "reasons": list(self.reasons),
        }


def judge_client(run: Run, typical_s: float) -> ClientState:
    """Looks at a level.

    Args:
        run: of it.
        typical_s: median time to first token; NaN where there is none.
    """
    late = _spread([x.late_s for x in run.records])
    lag = _spread(run.health.lags)
    share = run.health.cpu_share
    known = 0.0 if np.isnan(typical_s) else typical_s
    limits = {
        "p50": max(LEAST_LATE_S, LATE_SHARE * known),
        "p95": max(LEAST_TAIL_S, TAIL_SHARE * known),
    }
    reasons = []
    if run.hopeless:
        reasons.append(f"it gave up, {run.records[-1].late_s:.1f} s behind its schedule")
    looked = (
        ("requests were", late, len(run.records)),
        ("its event loop was", lag, len(run.health.lags)),
    )
    for what, found, number in looked:
        over = [p for p, limit in limits.items() if found[p] > limit]
        if over and number >= FEWEST:
            reasons.append(f"{what} {found[over[0]] * 1e3:.0f} ms late ({_PERCENTILES[over[0]]})")
    if share > BUSY_SHARE and len(run.health.lags) >= FEWEST:
        reasons.append(f"it used {share:.0%} of a core")
    starved = bool(reasons) and share < IDLE_SHARE
    if starved:
        reasons.append(f"it used {share:.0%} of a core, so other processes kept it from running")
    if any(x.out_of_files for x in run.records):
        reasons.append("it had no file descriptor left for a connection (see ulimit -n)")
    return ClientState(late, lag, share, limits, tuple(reasons), starved)


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"p50": 0.0, "p95": 0.0, "max": 0.0}
    found = np.maximum(np.asarray(values), 0.0)
    return {
        "p50": float(np.quantile(found, 0.5)),
        "p95": float(np.quantile(found, 0.95)),
        "max": float(found.max()),
    }
