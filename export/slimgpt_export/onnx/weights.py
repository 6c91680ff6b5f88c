"""The graph's initializers: read, packed and rounded one at a time, when the file is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import onnx_ir as ir
import torch
from torch import Tensor

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import UsageError
from slimgpt_export.onnx.blocks import Blocks, quantize
from slimgpt_export.onnx.geometry import Geometry, block_of
from slimgpt_export.onnx.precision import Part, Precision
from slimgpt_export.onnx.rope import RopeTable
from slimgpt_export.onnx.widening import Widening

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
PACKED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Matrices that read the same input are one matrix."""
_LAYER = "model.layers."
_UNTIED_EMBEDDING_BITS = 8
"""One row of it is read a token, so it costs no time, and fewer bits would cost quality."""

IR_TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.uint8: ir.DataType.UINT8,
}


@dataclass(frozen=True, slots=True)
class BlockTensors:
    """The initializers of a quantised matrix (out, in).

    Attributes:
        values: see :class:`~slimgpt_export.onnx.blocks.Blocks`.
        scales: as there.
        zero_points: as there.
        bits: of a value.
        block_size: values in a block.
    """

    values: ir.TensorProtocol
    scales: ir.TensorProtocol
    zero_points: ir.TensorProtocol | None
    bits: int
    block_size: int


class GraphWeights:
    """Tensors by the names that they have in the graph.

    Args:
        checkpoint: where they come from.
        geometry: widths of model and graph.
        precision: what they are rounded to.
        dtype: what is not quantised is stored in, after rounding as the precision says.
    """

    def __init__(
        self, checkpoint: Checkpoint, geometry: Geometry, precision: Precision, dtype: torch.dtype
    ) -> None:
        self._checkpoint, self._geometry = checkpoint, geometry
        self._precision, self._dtype = precision, dtype
        self._rounded_to = getattr(torch, precision.activations)
        self._made: tuple[str, Blocks] | None = None

    def whole(self, name: str) -> ir.TensorProtocol:
        """A tensor that is not quantised."""

        def read() -> Tensor:
            return self._whole(name, self._read(name))

        return _lazy(name, self._size(name), self._dtype, read)

    def blocks(self, name: str) -> BlockTensors | None:
        """A quantised matrix; None where the precision leaves this one whole."""
        bits = self._bits(name)
        if bits is None:
            return None
        out, width = self._size(name)
        block = block_of(width, self._precision.block_size)
        count = width // block
        points = None
        if not self._precision.symmetric:
            size = (out, -(-count * bits // 8))
            points = _lazy(f"{name}.zero_points", size, torch.uint8, lambda: _points(made()))

        def made() -> Blocks:
            # Values, scales and zero points are written one after the other, and made once.
            if self._made is None or self._made[0] != name:
                self._made = name, self._quantized(name, self._read(name), bits, block)
            return self._made[1]

        return BlockTensors(
            _lazy(
                f"{name}.q{bits}",
                (out, count, block * bits // 8),
                torch.uint8,
                lambda: made().values,
            ),
            _lazy(f"{name}.scales", (out, count), self._dtype, lambda: made().scales),
            points,
            bits,
            block,
        )

    def rope(self, name: str, table: RopeTable) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
        """Cosines and sines."""
        size = tuple(table.cos.shape)
        return (
            _lazy(f"{name}.cos", size, self._dtype, lambda: table.cos),
            _lazy(f"{name}.sin", size, self._dtype, lambda: table.sin),
        )

    def as_computed(self, index: int) -> dict[str, Tensor]:
        """A layer's tensors under their canonical names, with the values that the graph has."""
        widening, layer = Widening(self._geometry, index), self._checkpoint.layer(index)
        return {
            name: widening.narrow(
                name, self.rounded(f"{_LAYER}{index}.{name}", widening.widen(name, tensor))
            )
            if tensor.dim() == 2
            else self._whole(f"{_LAYER}{index}.{name}", tensor).float()
            for name, tensor in layer.items()
        }

    def outer_as_computed(self, name: str) -> Tensor:
        """Embedding, norm or head with the values that the graph has."""
        tensor = self._checkpoint.outer(name)
        if tensor.dim() == 2:
            return self.rounded(name, tensor)
        return self._whole(name, tensor).float()

    def rounded(self, name: str, tensor: Tensor) -> Tensor:
        """A matrix as it is after storing, in float32."""
        bits = self._bits(name)
        if bits is None:
            return self._whole(name, tensor).float()
        block = block_of(tensor.shape[1], self._precision.block_size)
        return self._quantized(name, tensor, bits, block).dequantized()

    def _whole(self, name: str, tensor: Tensor) -> Tensor:
        return in_format(name, tensor, self._precision)

    def _quantized(self, name: str, tensor: Tensor, bits: int, block: int) -> Blocks:
        blocks = quantize(
            tensor,
            bits=bits,
            block_size=block,
            symmetric=self._precision.symmetric,
            scale_dtype=self._rounded_to,
        )
        # A scale that is too large is clipped, and its block of weights with it.
        if blocks.scales.numel() and blocks.scales.abs().max() >= torch.finfo(self._rounded_to).max:
            raise _too_large(name, tensor, self._precision)
        return blocks

    def _bits(self, name: str) -> int | None:
        tied = self._geometry.source.tied_embeddings
        if name == EMBEDDING and not tied:
            return _UNTIED_EMBEDDING_BITS if self._precision.quantized else None
        return self._precision.bits_of(self._part(name))

    def _part(self, name: str) -> Part | None:
        if not name.startswith(_LAYER):
            return "head"
        index = int(name.removeprefix(_LAYER).partition(".")[0])
        if index == 0:
            return "first"
        return "last" if index == len(self._geometry.source.layers) - 1 else None

    def _size(self, name: str) -> tuple[int, ...]:
        shape = self._geometry.graph
        if not name.startswith(_LAYER):
            return shape.outer_tensors()[name]
        index, _, inner = name.removeprefix(_LAYER).partition(".")
        sizes = shape.layer_tensors(shape.layers[int(index)])
        parts = [sizes[part] for part in _parts(inner)]
        return (sum(size[0] for size in parts), *parts[0][1:])

    def _read(self, name: str) -> Tensor:
        if not name.startswith(_LAYER):
            return self._checkpoint.outer(name)
        number, _, inner = name.removeprefix(_LAYER).partition(".")
        index = int(number)
        widening = Widening(self._geometry, index)
        return torch.cat(
            [widening.widen(p, self._checkpoint.tensor(index, p)) for p in _parts(inner)]
        )


def in_format(name: str, tensor: Tensor, precision: Precision) -> Tensor:
    """A tensor in the number format of what is not quantised.

    Raises:
        UsageError: it is finite and holds a value beyond the format's largest.
    """
    found = tensor.to(getattr(torch, precision.activations))
    if not found.isfinite().all() and tensor.isfinite().all():
        raise _too_large(name, tensor, precision)
    return found


def _too_large(name: str, tensor: Tensor, precision: Precision) -> UsageError:
    given = f"--precision {precision.name}"
    if precision.quantized:
        given += f" --activations {precision.activations}"
    return UsageError(
        f"{given}: {name} of MODEL holds values up to {float(tensor.abs().max()):.3g}, beyond what "
        f"{precision.activations} can hold: give {precision.wider}"
    )


def _parts(name: str) -> list[str]:
    """What a tensor of the graph is made of, by canonical names within the layer."""
    block, _, kind = name.rpartition(".")
    return [f"{part}.{kind}" for part in PACKED.get(block, (block,))]


def _points(blocks: Blocks) -> Tensor:
    assert blocks.zero_points is not None
    return blocks.zero_points


def _lazy(
    name: str, size: tuple[int, ...], dtype: torch.dtype, read: Callable[[], Tensor]
) -> ir.TensorProtocol:
    def made() -> ir.TensorProtocol:
        tensor = read().to(dtype).contiguous()
        assert tuple(tensor.shape) == size, f"{name} is {tuple(tensor.shape)}, not {size}"
        if dtype == torch.bfloat16:  # numpy has none of its own
            return ir.tensor(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16), name=name)
        return ir.tensor(tensor.numpy(), name=name)

    return ir.LazyTensor(made, dtype=IR_TYPES[dtype], shape=ir.Shape(size), name=name)
