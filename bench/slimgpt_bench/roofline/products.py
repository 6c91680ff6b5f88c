"""The matrix products of one forward pass: how much each moves and computes at its actual widths.

A device computes whole tiles, so that a width which is no multiple of the tile costs as much as the
next one that is. Memory is read as it is stored: rows lie side by side, and a width of any size
wastes none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.accelerators import Accelerator


@dataclass(frozen=True, slots=True)
class Numbers:
    """What values are stored and computed in.

    Attributes:
        weight_bytes: of one weight, scales of blocks included.
        value_bytes: of one activation or cached value.
        dtype: of the products, as torch spells it.
    """

    weight_bytes: float
    value_bytes: float
    dtype: str


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass.

    Attributes:
        batch: sequences.
        tokens: read of each in this pass: the prompt, or one.
        context: positions that the last of them attends to, itself included.
    """

    batch: int
    tokens: int
    context: int

    @property
    def rows(self) -> int:
        """Of every matrix product but the LM head's."""
        return self.batch * self.tokens

    @property
    def pairs(self) -> int:
        """Of a token and a position that it attends to, in all sequences."""
        return self.batch * (self.tokens * self.context - self.tokens * (self.tokens - 1) // 2)


def prefill(batch: int, prompt: int) -> Step:
    """The pass that reads whole prompts."""
    return Step(batch, prompt, prompt)


def decode(batch: int, context: int) -> Step:
    """A pass that reads one token of each sequence."""
    return Step(batch, 1, context)


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product, or the attention between two of them.

    Attributes:
        name: ``qkv``, ``attention``, ``output``, ``gate_up``, ``down`` or ``head``.
        moved_bytes: weights, inputs and outputs, each once.
        flops: two for each multiplication and addition.
        padded_flops: with every width filled up to whole tiles.
        idle: factor by which the last, partly filled wave of tiles makes it longer; 1 for none.
    """

    name: str
    moved_bytes: float
    flops: float
    padded_flops: float
    idle: float = 1.0

    def seconds(self, device: Accelerator, dtype: str, *, padded: bool = True) -> float:
        """At the device's full speed: the longer of moving and computing."""
        computed = self.padded_flops * self.idle if padded else self.flops
        return max(self.moved_bytes / device.bytes_per_s, computed / device.flops(dtype))

    def memory_bound(self, device: Accelerator, dtype: str) -> bool:
        """Whether moving takes longer than computing."""
        computed = self.padded_flops * self.idle / device.flops(dtype)
        return self.moved_bytes / device.bytes_per_s >= computed


def filled(width: int, tile: int) -> int:
    """The width filled up to whole tiles."""
    return ceil(width / tile) * tile


def layer_products(
    shape: ModelShape, layer: LayerShape, step: Step, device: Accelerator, numbers: Numbers
) -> Iterator[Product]:
    """The products of one decoder layer; norms, rotary embedding and softmax are left out.

    Args:
        shape: hidden size and head size.
        layer: its widths.
        step: the pass.
        device: its tile.
        numbers: bytes of values.
    """
    multiply = _Multiply(step.rows, device, numbers)
    hidden, query = shape.hidden_size, layer.query_heads * shape.head_dim
    kv = layer.kv_heads * shape.head_dim
    if layer.has_attention:
        yield multiply("qkv", hidden, (query, kv, kv))
        yield _attention(step, query, kv, numbers)
        yield multiply("output", query, (hidden,))
    if layer.has_ffn:
        yield multiply("gate_up", hidden, (layer.ffn, layer.ffn))
        yield multiply("down", layer.ffn, (hidden,))


def head_product(shape: ModelShape, step: Step, device: Accelerator, numbers: Numbers) -> Product:
    """The LM head, on the last token of each sequence."""
    return _Multiply(step.batch, device, numbers)("head", shape.hidden_size, (shape.vocab_size,))


@dataclass(frozen=True, slots=True)
class _Multiply:
    """Products of ``rows`` inputs with matrices that share them."""

    rows: int
    device: Accelerator
    numbers: Numbers

    def __call__(self, name: str, inputs: int, outputs: tuple[int, ...]) -> Product:
        tile, whole = self.device.tile, sum(outputs)
        weights = inputs * whole * self.numbers.weight_bytes
        values = self.rows * (inputs + whole) * self.numbers.value_bytes
        padded = filled(inputs, tile) * sum(filled(width, tile) for width in outputs)
        return Product(
            name,
            weights + values,
            2 * self.rows * inputs * whole,
            2 * self.rows * padded,
            self._idle(whole),
        )

    def _idle(self, outputs: int) -> float:
        """Tiles of the output are shared out to the multiprocessors, wave after wave."""
        if not self.device.sms or not outputs:
            return 1.0
        tiles = ceil(self.rows / self.device.tile) * ceil(outputs / self.device.tile)
        waves = ceil(tiles / self.device.sms)
        # Less than one wave is split along the inputs by every library, so that none is idle.
        return waves * self.device.sms / tiles if waves > 1 else 1.0


def _attention(step: Step, query: int, kv: int, numbers: Numbers) -> Product:
    cached = step.batch * step.context * 2 * kv
    passed = 2 * step.rows * query
    flops = 4 * query * step.pairs
    return Product("attention", (cached + passed) * numbers.value_bytes, flops, flops)
