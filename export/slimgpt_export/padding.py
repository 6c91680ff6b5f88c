"""Zero padding of one decoder layer to wider widths: the same function, exactly.

A padded neuron has zero rows and a zero column. A padded query head has a zero column in the output
projection, so that what it attends to does not matter. An absent sub-block becomes one of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from slimgpt.shape import LayerShape, ModelShape
from slimgpt_export.layout import copies, query_slots

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_QUERY = "self_attn.q_proj."
_KV = ("self_attn.k_proj.", "self_attn.v_proj.")
_OUTPUT = "self_attn.o_proj.weight"


def pad_layer(
    tensors: Mapping[str, Tensor], source: LayerShape, target: ModelShape, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The canonical tensors of a layer at the widths and with the biases of a uniform model.

    Args:
        tensors: of the layer.
        source: its widths.
        target: of the model; each width at least the layer's.
        dtype: of tensors that the layer has none of.
    """
    layer = target.layers[0]
    return {
        name: _padded(name, tensors, size, source, layer, target.head_dim, dtype)
        for name, size in target.layer_tensors(layer).items()
    }


def _padded(
    name: str,
    tensors: Mapping[str, Tensor],
    size: tuple[int, ...],
    source: LayerShape,
    target: LayerShape,
    head_dim: int,
    dtype: torch.dtype,
) -> Tensor:
    import torch

    if name not in tensors:
        # Norms of ones: zeros would do as well, and show up as damage in any tool that looks.
        fill = 1.0 if name.endswith("norm.weight") else 0.0
        return torch.full(size, fill, dtype=dtype)
    stored = tensors[name]
    if tuple(stored.shape) == size and source == target:
        return stored
    out = stored.new_zeros(size)
    if name.startswith((_QUERY, *_KV)):
        heads, places = stored.unflatten(0, (-1, head_dim)), out.unflatten(0, (-1, head_dim))
        if name.startswith(_QUERY):
            places[query_slots(source, target.group_size)] = heads
        else:
            times = copies(source, target.group_size)
            places[: len(heads) * times] = heads.repeat_interleave(times, dim=0)
    elif name == _OUTPUT:
        slots = query_slots(source, target.group_size)
        out.unflatten(1, (-1, head_dim))[:, slots] = stored.unflatten(1, (-1, head_dim))
    else:  # FFN, norms and output biases: what is there comes first
        out[tuple(slice(width) for width in stored.shape)] = stored
    return out
