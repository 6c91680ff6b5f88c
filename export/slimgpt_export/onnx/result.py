"""What an ONNX export was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt_export.onnx.geometry import Geometry
from slimgpt_export.onnx.precision import Precision


@dataclass(frozen=True, slots=True)
class OnnxResult:
    """What was written.

    Attributes:
        out: the export.
        precision: of the weights, with what was chosen to stay higher.
        geometry: widths of model and graph; None of an architecture that slimgpt does not know.
        weight_bytes: of the graph's data.
        measured: parity, and for quantised weights what stays at higher precision and why: the
            ``quality.export`` entry of the manifest.
        seconds: wall time.
        peak_rss_bytes: most resident memory of this process.
    """

    out: Path
    precision: Precision
    geometry: Geometry | None
    weight_bytes: int
    measured: Mapping[str, Any]
    seconds: float
    peak_rss_bytes: int
