"""How much disk an export takes at most, before anything is written."""

from __future__ import annotations

from dataclasses import replace

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt_export.onnx.geometry import plan_geometry
from slimgpt_export.onnx.options import OnnxOptions
from slimgpt_export.onnx.precision import PARTS, Precision
from slimgpt_export.onnx.rope import context_length, length_switch
from slimgpt_export.onnx.sensitivity import weight_bytes
from slimgpt_export.onnx.side_by_side import raised_precision

FLOAT32 = "float32"
_VALUE_BYTES = {FLOAT32: 4, "float16": 2, "bfloat16": 2}


def disk_bytes(checkpoint: Checkpoint, options: OnnxOptions) -> int:
    """Bytes of the graph, whatever is chosen to stay at higher precision, and of what goes with it.

    A bfloat16 graph may be checked in a float32 one, which then stands beside it.

    Args:
        checkpoint: to be exported.
        options: how.
    """
    precision = options.precision
    if precision.quantized:
        precision = raised_precision(precision, PARTS)
    formats = [precision.activations]
    if precision.activations == "bfloat16" and not options.device.startswith("cuda"):
        formats.append(FLOAT32)
    beside = sum((checkpoint.directory / path).stat().st_size for path in checkpoint.sidecars())
    return beside + sum(_graph(checkpoint, replace(precision, activations=x)) for x in formats)


def _graph(checkpoint: Checkpoint, precision: Precision) -> int:
    """Of weights and tables of rope."""
    meta = checkpoint.meta
    tables = 1 if length_switch(meta) is None else 2
    head_dim = plan_geometry(meta.shape, precision).graph.head_dim
    rope = tables * context_length(meta) * head_dim * _VALUE_BYTES[precision.activations]
    return weight_bytes(checkpoint, precision) + rope
