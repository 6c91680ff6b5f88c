"""What a recovery did, as the manifest, the command line and Python callers are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimgpt.recover.merge import MergeCheck
from slimgpt.recover.training import Trained
from slimgpt.release.manifest import rounded


@dataclass(frozen=True, slots=True)
class RecoverResult:
    """What a recovery did.

    Attributes:
        out: the recovered checkpoint.
        quality: ``quality.recovery`` of its manifest: held-out loss before and after, the step
            that was kept, and the adapter model against the merged one.
        data: what was trained on, as the recipe has it.
        seconds: wall time of this run (of the last part, if it resumed).
        peak_rss_bytes: most resident memory of this process.
    """

    out: Path
    quality: Mapping[str, Any]
    data: Mapping[str, Any]
    seconds: float
    peak_rss_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The document of ``slimgpt recover --json``."""
        return {
            "out": str(self.out),
            **self.quality,
            "data": dict(self.data),
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
        }


def quality(trained: Trained, merged_loss: float, check: MergeCheck) -> dict[str, Any]:
    """The ``quality.recovery`` entry of the manifest."""
    loss = {"before": trained.before, "after": merged_loss, "unit": "nats/token"}
    measured: dict[str, Any] = rounded(
        {
            "held_out_loss": loss,
            "best_step": trained.best_step,
            "steps": trained.steps,
            "merged": asdict(check),
        }
    )
    return measured
