"""What one run of a cell gives: the raw times of its trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from slimgpt_bench.latency.cells import Cell


@dataclass(frozen=True, slots=True)
class Times:
    """Of one trial: seconds since the prompts were handed over.

    The batch is the unit: a token is there when every sequence of the batch has it.

    Attributes:
        prefill_s: until the logits after the prompts were there.
        token_s: until the first, second, ... token was chosen.
    """

    prefill_s: float
    token_s: tuple[float, ...]

    @property
    def ttft_s(self) -> float:
        return self.token_s[0]

    @property
    def e2e_s(self) -> float:
        return self.token_s[-1]

    @property
    def itl_s(self) -> list[float]:
        """Gaps between tokens; none for one token."""
        return [b - a for a, b in zip(self.token_s, self.token_s[1:], strict=False)]

    @property
    def tpot_s(self) -> float | None:
        """Mean of the gaps; None for one token."""
        gaps = len(self.token_s) - 1
        return (self.e2e_s - self.ttft_s) / gaps if gaps else None


@dataclass(frozen=True, slots=True)
class Trials:
    """Of one cell in one run, which is one process.

    Attributes:
        cell: that was run.
        times: of each trial that was timed, in order.
        warmup_s: end to end, of the trials before, which count nowhere.
        settled: the last trials of the warm-up agreed.
        failed: trials that gave no times, by reason.
    """

    cell: Cell
    times: tuple[Times, ...]
    warmup_s: tuple[float, ...] = ()
    settled: bool = True
    failed: Mapping[str, int] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """Requests: a trial has one for each sequence of its batch."""
        return self.cell.batch * (len(self.times) + sum(self.failed.values()))

    def of(self, quantity: str) -> list[float]:
        """All values of ``prefill_s``, ``ttft_s``, ``tpot_s``, ``itl_s`` or ``e2e_s``."""
        if quantity == "itl_s":
            return [gap for times in self.times for gap in times.itl_s]
        found = [getattr(times, quantity) for times in self.times]
        return [value for value in found if value is not None]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trials:
        return cls(
            Cell(**values["cell"]),
            tuple(Times(x["prefill_s"], tuple(x["token_s"])) for x in values["times"]),
            tuple(values["warmup_s"]),
            values["settled"],
            values["failed"],
        )
