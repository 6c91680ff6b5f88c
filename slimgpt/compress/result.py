"""What a job did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimgpt.planning import Plan
from slimgpt.release.gates import GateResult
from slimgpt.release.manifest import parameters


@dataclass(frozen=True, slots=True)
class ExportOutcome:
    """What became of an export with a directory of its own.

    Attributes:
        format: as in the recipe.
        out: its directory, made or not.
        made: whether it is there.
        error: why not, where it was tried.
    """

    format: str
    out: Path
    made: bool = False
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"out": str(self.out)}


@dataclass(frozen=True, slots=True)
class CompressResult:
    """What a job did.

    Attributes:
        model: as the user named it.
        out: the release, or where it would be.
        candidate: the checkpoint that was judged, where it was not released.
        plan: shapes and ratios.
        bytes_per_value: of a stored weight.
        recovery: the ``quality.recovery`` entry; None without recovery.
        judgement: what was measured, empty where the recipe measures nothing.
        gates: all of them.
        exports: those with a directory of their own.
        pushed: where to, or None.
        stage_seconds: wall time a stage, those that an earlier run finished included.
        reused: stages that an earlier run had finished.
        peak_rss_bytes: most resident memory of this process.
        speed: what the speed gate is about; None without one.
    """

    model: str
    out: Path
    candidate: Path | None
    plan: Plan
    bytes_per_value: int
    recovery: Mapping[str, Any] | None
    judgement: Mapping[str, Any]
    gates: tuple[GateResult, ...]
    exports: tuple[ExportOutcome, ...]
    pushed: str | None
    stage_seconds: Mapping[str, float]
    reused: tuple[str, ...]
    peak_rss_bytes: int
    speed: Mapping[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """Wall time of all stages."""
        return sum(self.stage_seconds.values())

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    def to_json(self) -> dict[str, Any]:
        """The document of ``slimgpt compress --json``."""
        return {
            "model": self.model,
            "out": str(self.out),
            "released": self.candidate is None,
            "candidate": str(self.candidate) if self.candidate else None,
            "ratio": {"asked": self.plan.ratio, "achieved": self.plan.achieved},
            "parameters": parameters(self.plan),
            "recovery": self.recovery,
            "quality": dict(self.judgement),
            "gates": [asdict(gate) for gate in self.gates],
            "speed": self.speed,
            "passed": self.passed,
            "exports": [export.to_json() for export in self.exports],
            "pushed": self.pushed,
            "stages": [
                {"stage": name, "seconds": seconds, "reused": name in self.reused}
                for name, seconds in self.stage_seconds.items()
            ],
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
        }
