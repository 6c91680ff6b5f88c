"""Layers and logits in torch with the numbers that a graph computes with: one layer in memory.

Weights are rounded as they are stored, and at accuracy level 4 activations to int8 as MatMulNBits
rounds them. One product is ONNX Runtime's to a millionth (on a CPU with AVX-512 VNNI). In a whole
model some activations lie so close to a half that the two round them to different sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.prune.activations import Activations, embed
from slimgpt.prune.forward import LayerForward
from slimgpt_export.onnx.blocks import as_int8
from slimgpt_export.onnx.geometry import block_of, norm_epsilon, plan_geometry
from slimgpt_export.onnx.precision import Part, Precision
from slimgpt_export.onnx.weights import EMBEDDING, FINAL_NORM, HEAD, GraphWeights
from slimgpt_export.onnx.widening import Widening

_INT8_ACTIVATIONS = 4
"""The accuracy level of MatMulNBits that rounds them."""
_WIDENED_INPUTS = ("self_attn.o_proj", "mlp.down_proj")


class Numbers(Protocol):
    """What a model is computed with."""

    def layer(self, index: int) -> Mapping[str, Tensor]:
        """Tensors of a layer, by canonical names."""

    def rows(self, name: str, rows: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        """Some rows of the embedding or the head, given as stored."""

    def vector(self, name: str) -> Float[Tensor, " in"]:
        """The final norm's weight."""

    def inputs(
        self, index: int | None, name: str, x: Float[Tensor, "rows in"]
    ) -> Float[Tensor, "rows in"]:
        """What a matrix is multiplied with: one of a layer, by its module's name, or the head."""


class AsStored:
    """A checkpoint's own numbers."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def layer(self, index: int) -> Mapping[str, Tensor]:
        return self._checkpoint.layer(index)

    def rows(self, name: str, rows: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        return rows.float()

    def vector(self, name: str) -> Float[Tensor, " in"]:
        return self._checkpoint.outer(name).float()

    def inputs(
        self, index: int | None, name: str, x: Float[Tensor, "rows in"]
    ) -> Float[Tensor, "rows in"]:
        return x


class AsInGraph:
    """The numbers of a graph, with the weights of a checkpoint.

    Args:
        checkpoint: dense or pruned.
        precision: of the graph.
    """

    def __init__(self, checkpoint: Checkpoint, precision: Precision) -> None:
        self._geometry = plan_geometry(checkpoint.shape, precision)
        self._precision = precision
        dtype = getattr(torch, precision.activations)
        self._weights = GraphWeights(checkpoint, self._geometry, precision, dtype)

    def layer(self, index: int) -> Mapping[str, Tensor]:
        return self._weights.as_computed(index)

    def rows(self, name: str, rows: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        return self._weights.rounded(name, rows)

    def vector(self, name: str) -> Float[Tensor, " in"]:
        return self._weights.outer_as_computed(name)

    def inputs(
        self, index: int | None, name: str, x: Float[Tensor, "rows in"]
    ) -> Float[Tensor, "rows in"]:
        precision = self._precision
        part = "head" if index is None else layer_part(index, len(self._geometry.source.layers))
        if precision.bits_of(part) is None or precision.accuracy_level != _INT8_ACTIVATIONS:
            return x
        if index is None or name not in _WIDENED_INPUTS:
            return as_int8(x, block_of(x.shape[1], precision.block_size))
        widening, weight = Widening(self._geometry, index), f"{name}.weight"
        wide = widening.widen(weight, x)
        return widening.narrow(weight, as_int8(wide, block_of(wide.shape[1], precision.block_size)))


def layer_part(index: int, layers: int) -> Part | None:
    """The part that a layer is; a single one is the first."""
    if index == 0:
        return "first"
    return "last" if index == layers - 1 else None


def embedded(
    checkpoint: Checkpoint, numbers: Numbers, windows: Int[Tensor, "windows tokens"]
) -> Activations:
    """The inputs of layer 0; of the embedding, only the rows that occur are rounded."""
    occurring, places = windows.unique(return_inverse=True)
    rows = numbers.rows(EMBEDDING, checkpoint.outer(EMBEDDING)[occurring])
    return embed(places, rows, torch.float32, torch.device("cpu"), None)


def run_layer(
    forward: LayerForward,
    checkpoint: Checkpoint,
    index: int,
    numbers: Numbers,
    streams: Iterable[Activations],
) -> None:
    """Runs one layer on activations, in place; its weights are rounded once for all of them."""
    shape = checkpoint.shape
    layer = forward.layer(shape, index, numbers.layer(index))
    for name, module in layer._module.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(_rounding(numbers, index, name))
    for states in streams:
        if shape.layers[index].has_attention:
            layer.attend(states)
        if shape.layers[index].has_ffn:
            layer.feed(states)


def head_inputs(
    checkpoint: Checkpoint, numbers: Numbers, states: Activations
) -> Float[Tensor, "positions hidden"]:
    """What the LM head reads at every position."""
    x = torch.cat([batch.flatten(0, 1) for _, batch in states])
    epsilon = norm_epsilon(checkpoint.meta)
    normed = nn.functional.rms_norm(x, x.shape[-1:], numbers.vector(FINAL_NORM), epsilon)
    return numbers.inputs(None, HEAD, normed)


def _rounding(
    numbers: Numbers, index: int, name: str
) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def hook(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        [x] = inputs
        return (numbers.inputs(index, name, x.flatten(0, -2)).view_as(x),)

    return hook
