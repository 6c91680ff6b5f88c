"""When requests of an open loop arrive: they don't wait for the answers of others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A process of arrivals.

    Attributes:
        rate_rps: mean requests a second.
        kind: ``poisson``, ``gamma`` or ``constant``.
        burstiness: shape of the gamma distribution of the gaps: 1 is Poisson, smaller is burstier
            (the squared coefficient of variation of the gaps is its inverse).
    """

    rate_rps: float
    kind: str = "poisson"
    burstiness: float = 1.0

    def times(self, seed: int) -> Iterator[float]:
        """Seconds from the start, without end; the same for the same seed."""
        rng = np.random.default_rng(seed)
        now = 0.0
        while True:
            for gap in self._gaps(rng):
                now += gap
                yield now

    def _gaps(self, rng: np.random.Generator) -> list[float]:
        mean = 1 / self.rate_rps
        if self.kind == "constant":
            return [mean] * _BLOCK
        shape = self.burstiness if self.kind == "gamma" else 1.0
        found: list[float] = rng.gamma(shape, mean / shape, size=_BLOCK).tolist()
        return found

    def to_json(self) -> dict[str, Any]:
        return {"arrival": self.kind, "burstiness": self.burstiness}
