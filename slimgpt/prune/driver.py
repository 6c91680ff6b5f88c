"""From a checkpoint to a smaller one, one decoder layer in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.calibration import Calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.destination import require_absent, require_apart
from slimgpt.loading import require_loadable
from slimgpt.planning import Plan
from slimgpt.progress import Progress, Silent
from slimgpt.prune.depth import DepthRun
from slimgpt.prune.options import DEPTH, PruneOptions
from slimgpt.prune.width import WidthRun
from slimgpt.release.manifest import parameters
from slimgpt.resources import peak_rss_bytes


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What a run did.

    Attributes:
        out: the pruned checkpoint.
        plan: shapes and ratios.
        seconds: wall time of this run (of the last part, if it resumed).
        peak_rss_bytes: most resident memory of this process.
        resumed_layers: layers that an earlier run had finished.
    """

    out: Path
    plan: Plan
    seconds: float
    peak_rss_bytes: int
    resumed_layers: int

    def to_json(self) -> dict[str, Any]:
        """The document of ``slimgpt prune --json``."""
        return {
            "out": str(self.out),
            "ratio": {"asked": self.plan.ratio, "achieved": self.plan.achieved},
            "parameters": parameters(self.plan),
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
            "resumed_layers": self.resumed_layers,
        }


def prune(
    model: Path,
    out: Path,
    options: PruneOptions,
    calibrate: Callable[[Checkpoint], Calibration],
    *,
    source_name: str | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Prunes a checkpoint directory into a new one.

    Args:
        model: the dense (or already pruned) checkpoint.
        out: must not exist; appears complete or not at all.
        options: what to remove and how.
        calibrate: gives the token windows, once the checkpoint has passed its checks; not called
            when nothing is to be removed.
        source_name: how the source is called in card and manifest; default its directory name.
        progress: watches.

    Raises:
        SlimGPTError: every expected failure, with its exit code; OUT is then untouched.
    """
    started = time.monotonic()
    progress = progress or Silent()
    require_absent(out)
    require_apart(model, out)
    checkpoint = Checkpoint(model)
    require_loadable(checkpoint.meta)
    plan = options.plan(checkpoint.shape)
    kind = DepthRun if options.method == DEPTH else WidthRun
    run = kind(checkpoint, out, options, plan, source_name or model.resolve().name, progress)
    resumed = run.execute(calibrate)
    return PruneResult(out, plan, time.monotonic() - started, peak_rss_bytes(), resumed)
