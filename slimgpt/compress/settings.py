"""Where and how a job computes: what does not belong into a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how a job computes.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: ``auto`` is float32 on a CPU and the stored type on a GPU.
        fresh: throw away an unfinished job instead of resuming it.
        report: folder for report.json, junit.xml and summary.txt; None writes none.
        model_name: how the user named the model, for the report; default its directory.
    """

    device: str = "auto"
    dtype: str = "auto"
    fresh: bool = False
    report: Path | None = None
    model_name: str | None = None
