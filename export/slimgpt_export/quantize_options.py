"""What a quantisation is asked for, and what it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimgpt_export.quantize_data import DataOptions
from slimgpt_export.quantize_schemes import Target


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """What the user asked for.

    Attributes:
        target: scheme, and where it is to be served.
        data: what to calibrate and measure on.
        max_kl: most KL(MODEL || quantised) in nats a token; None for any.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: to measure in; the weights are quantised in the type that they are stored in.
    """

    target: Target
    data: DataOptions = field(default_factory=DataOptions)
    max_kl: float | None = None
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What was made.

    Attributes:
        out: the quantised checkpoint.
        scheme: its name.
        quality: ``quality.quantization`` of its manifest.
        padded: matrices whose widths make a kernel slower.
        seconds: wall time.
        peak_rss_bytes: most resident memory of this process.
    """

    out: Path
    scheme: str
    quality: Mapping[str, Any]
    padded: int
    seconds: float
    peak_rss_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The document of ``slimgpt export quantized --json``."""
        return {
            "out": str(self.out),
            "scheme": self.scheme,
            **self.quality,
            "padded_matrices": self.padded,
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
        }
