"""The widths of the graph, where ONNX Runtime's kernels need others than the model has. No torch.

What is added are zeros, and the function stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import UsageError
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_export.onnx.precision import Precision

HEAD_MULTIPLE = 16
"""Rope inside GroupQueryAttention takes heads of such multiples alone (ONNX Runtime 1.32)."""
SMALLEST_BLOCK = 16
"""Of MatMulNBits and GatherBlockQuantized."""
_FFN_MULTIPLE = 32
"""What an FFN is widened to where no block divides it: the block that runs fastest on CPUs."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """A model and the widths that its graph has.

    Attributes:
        source: shape of the checkpoint.
        graph: shape of the graph; ``head_dim`` and FFN widths may be larger.
    """

    source: ModelShape
    graph: ModelShape

    @property
    def added_neurons(self) -> int:
        """FFN neurons of zeros in all layers."""
        pairs = zip(self.source.layers, self.graph.layers, strict=True)
        return sum(after.ffn - before.ffn for before, after in pairs)

    @property
    def widened_heads(self) -> bool:
        return self.graph.head_dim != self.source.head_dim


def plan_geometry(shape: ModelShape, precision: Precision) -> Geometry:
    """The graph's widths.

    Raises:
        UsageError: the weights are to be quantised, and no block divides the hidden size.
    """
    graph = replace(shape, head_dim=-(-shape.head_dim // HEAD_MULTIPLE) * HEAD_MULTIPLE)
    if precision.bits is None:
        return Geometry(shape, graph)
    if shape.hidden_size % SMALLEST_BLOCK:
        raise UsageError(
            f"--precision {precision.name}: the hidden size {shape.hidden_size} is no multiple of "
            f"any block size ({', '.join(map(str, block_sizes()))}): give --precision fp32 or fp16"
        )
    return Geometry(shape, graph.with_layers(tuple(map(_in_blocks, graph.layers))))


def block_sizes() -> tuple[int, ...]:
    """Values that share one scale, as ONNX Runtime's kernels take them."""
    return (16, 32, 64, 128, 256)


def block_of(width: int, asked: int) -> int:
    """The largest block of at most ``asked`` values that divides a row of ``width``.

    >>> block_of(96, 64)
    32
    """
    return max(size for size in block_sizes() if size <= asked and width % size == 0)


def head_slots(head_dim: int, widened: int) -> list[int]:
    """Where each value of a head goes in a wider one: rope turns value i with value i + half.

    >>> head_slots(4, 8)
    [0, 1, 4, 5]
    """
    half = head_dim // 2
    return [i if i < half else widened // 2 + i - half for i in range(head_dim)]


def norm_epsilon(meta: ConfigOnly) -> float:
    """What norms add to the mean of squares; transformers' default where config.json is silent."""
    return float(meta.config.get("rms_norm_eps", 1e-6))


def attending(shape: ModelShape) -> Iterator[tuple[int, LayerShape]]:
    """Number and widths of the layers that have KV caches."""
    return ((i, layer) for i, layer in enumerate(shape.layers) if layer.has_attention)


def _in_blocks(layer: LayerShape) -> LayerShape:
    if layer.ffn % SMALLEST_BLOCK == 0:
        return layer
    return replace(layer, ffn=-(-layer.ffn // _FFN_MULTIPLE) * _FFN_MULTIPLE)
