"""Tensors of a checkpoint at the widths of the graph, and back: zeros are put in and taken out."""

from __future__ import annotations

import torch
from torch import Tensor

from slimgpt.shape import LayerShape
from slimgpt_export.onnx.geometry import Geometry, head_slots

_HEAD_ROWS = ("q_proj", "k_proj", "v_proj")
_NEURON_ROWS = ("gate_proj", "up_proj")


class Widening:
    """Of one layer.

    Args:
        geometry: of the model.
        index: number of the layer.
    """

    def __init__(self, geometry: Geometry, index: int) -> None:
        self._narrow_head, self._wide_head = geometry.source.head_dim, geometry.graph.head_dim
        self._layer: LayerShape = geometry.source.layers[index]
        self._ffn = geometry.graph.layers[index].ffn

    def widen(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor, by its canonical name within the layer, at the graph's width."""
        slots = self._slots(name)
        if slots is None:
            return tensor
        axis, total, places = slots
        if len(places) == total:
            return tensor
        size = list(tensor.shape)
        size[axis] = total
        wide = tensor.new_zeros(size)
        return wide.index_copy_(axis, torch.tensor(places), tensor)

    def narrow(self, name: str, tensor: Tensor) -> Tensor:
        """The inverse of :meth:`widen`, for matrices."""
        slots = self._slots(name)
        if slots is None:
            return tensor
        axis, _, places = slots
        return tensor.index_select(axis, torch.tensor(places))

    def _slots(self, name: str) -> tuple[int, int, list[int]] | None:
        """Axis, its length in the graph, and where the tensor's entries stand on it."""
        kind = name.split(".")[1]
        if kind in _HEAD_ROWS or kind == "o_proj":
            if kind == "o_proj" and name.endswith("bias"):
                return None
            heads = (
                self._layer.kv_heads if kind in ("k_proj", "v_proj") else self._layer.query_heads
            )
            return int(kind == "o_proj"), heads * self._wide_head, self._heads(heads)
        if kind in ("q_norm", "k_norm"):
            return 0, self._wide_head, self._heads(1)
        if kind in _NEURON_ROWS or name == "mlp.down_proj.weight":
            return int(kind == "down_proj"), self._ffn, list(range(self._layer.ffn))
        return None

    def _heads(self, count: int) -> list[int]:
        within = head_slots(self._narrow_head, self._wide_head)
        return [head * self._wide_head + slot for head in range(count) for slot in within]
