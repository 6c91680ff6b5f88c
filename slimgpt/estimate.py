"""What pruning will cost on this machine, before it starts. No torch.

Work is counted in multiply-adds from the shapes; the speed of the machine is measured with one
matrix product. Memory is what the driver holds at its peak: one layer, its Gram matrices and
factors, and the activations.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from slimgpt.planning import Plan
from slimgpt.shape import LayerShape, ModelShape

_PROCESS_BYTES = 350 * 2**20
"""Python with torch and transformers imported."""
_PROBE = 1024


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cost of a pruning run.

    Attributes:
        flops: of the calibration passes and of the solving.
        seconds: on this machine's CPU, at the speed measured.
        gflops_per_s: that speed, of a float32 matrix product.
        peak_memory_bytes: resident memory.
    """

    flops: int
    seconds: float
    gflops_per_s: float
    peak_memory_bytes: int


def estimate(plan: Plan, samples: int, tokens: int, stored_bytes: int) -> Estimate:
    """Estimates a run.

    Args:
        plan: shapes before and after.
        samples: calibration windows.
        tokens: in a window.
        stored_bytes: bytes of a stored weight.
    """
    after = plan.target.layers
    if len(after) < len(plan.source.layers):  # whole layers go: one pass, and nothing is solved
        head = 2 * plan.source.vocab_size * plan.source.hidden_size
        flops = samples * (plan.source.prefill_flops(tokens) - head)
    else:
        flops = sum(
            _layer_flops(plan.source, old, new, samples, tokens)
            for old, new in zip(plan.source.layers, after, strict=True)
        )
    speed = _measured_flops_per_s()
    memory = _PROCESS_BYTES + _layer_bytes(plan.source, stored_bytes)
    memory += 4 * samples * tokens * plan.source.hidden_size
    return Estimate(flops, flops / speed, speed / 1e9, memory)


def _layer_flops(
    shape: ModelShape, old: LayerShape, new: LayerShape, samples: int, tokens: int
) -> int:
    """Two passes over the layer, two Gram matrices, and for each an inversion and downdates.

    Float64 runs at half the speed of float32, so solving counts twice.
    """
    one = shape.with_layers((old,))
    head = 2 * shape.vocab_size * shape.hidden_size
    passes = 2 * samples * (one.prefill_flops(tokens) - head)
    work = passes
    for width, removed in (
        (old.query_heads * shape.head_dim, (old.query_heads - new.query_heads) * shape.head_dim),
        (old.ffn, old.ffn - new.ffn),
    ):
        if removed:
            gram = 2 * samples * tokens * width**2
            solve = 2 * width**3 + 2 * removed * width * (width + shape.hidden_size)
            work += gram + 2 * (solve + 2 * shape.hidden_size * width**2)
    return work


def _layer_bytes(shape: ModelShape, stored_bytes: int) -> int:
    """One layer stored and in float32, and for its widest block H and two float64 of its size."""

    def peak(layer: LayerShape) -> int:
        width = max(layer.query_heads * shape.head_dim, layer.ffn)
        solving = (4 + 8 + 8) * width**2 + 3 * 8 * width * shape.hidden_size
        return shape.layer_parameters(layer) * (stored_bytes + 4) + solving

    return max(peak(layer) for layer in shape.layers)


def _measured_flops_per_s() -> float:
    """Speed of a float32 matrix product, the best of three."""
    import numpy as np

    a = np.ones((_PROBE, _PROBE), dtype=np.float32)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * _PROBE**3 / best
