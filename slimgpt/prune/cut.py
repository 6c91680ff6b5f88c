"""Cutting one decoder layer: weights, biases and the shape that describes them change together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slimgpt.shape import LayerShape

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class KeptHeads:
    """Heads that stay, in ascending order, and the output projection that makes up for the rest.

    Attributes:
        query: indices of query heads.
        kv: indices of KV heads.
        output: o_proj with removed columns zero, or None to leave the weights alone.
    """

    query: tuple[int, ...]
    kv: tuple[int, ...]
    output: Float[Tensor, "out in"] | None = None


@dataclass(frozen=True, slots=True)
class KeptNeurons:
    """FFN neurons that stay, in ascending order, and their down projection (None: unchanged)."""

    neurons: tuple[int, ...]
    down: Float[Tensor, "out in"] | None = None


def cut_attention(
    tensors: Mapping[str, Tensor], layer: LayerShape, kept: KeptHeads, head_dim: int
) -> tuple[Tensors, LayerShape]:
    """Removes heads from a layer.

    Args:
        tensors: canonical tensors of the layer.
        layer: its widths now.
        kept: what stays; nothing at all removes the sub-block and its norm.
        head_dim: width of one head.

    Returns:
        new tensors in the dtype of the old, and the widths they have.

    Raises:
        ValueError: query heads would attend to another KV head than before.
    """
    if not kept.query:
        gone = ("self_attn.", "input_layernorm.")
        rest = {k: v for k, v in tensors.items() if not k.startswith(gone)}
        return rest, LayerShape(0, 0, layer.ffn)
    _check_wiring(layer, kept)
    rows = {"q": _expand(kept.query, head_dim), "k": _expand(kept.kv, head_dim)}
    rows["v"] = rows["k"]
    out = dict(tensors)
    for letter, index in rows.items():
        for kind in ("weight", "bias"):
            name = f"self_attn.{letter}_proj.{kind}"
            if name in out:
                out[name] = out[name][index]
    out["self_attn.o_proj.weight"] = _columns(
        tensors["self_attn.o_proj.weight"], kept.output, rows["q"]
    )
    return out, LayerShape(len(kept.query), len(kept.kv), layer.ffn)


def cut_ffn(
    tensors: Mapping[str, Tensor], layer: LayerShape, kept: KeptNeurons
) -> tuple[Tensors, LayerShape]:
    """Removes FFN neurons from a layer; arguments and result as :func:`cut_attention`."""
    if not kept.neurons:
        gone = ("mlp.", "post_attention_layernorm.")
        rest = {k: v for k, v in tensors.items() if not k.startswith(gone)}
        return rest, LayerShape(layer.query_heads, layer.kv_heads, 0)
    index = torch.tensor(kept.neurons)
    out = dict(tensors)
    for name in ("gate_proj", "up_proj"):
        for kind in ("weight", "bias"):
            if f"mlp.{name}.{kind}" in out:
                out[f"mlp.{name}.{kind}"] = out[f"mlp.{name}.{kind}"][index]
    out["mlp.down_proj.weight"] = _columns(tensors["mlp.down_proj.weight"], kept.down, index)
    return out, LayerShape(layer.query_heads, layer.kv_heads, len(kept.neurons))


def _check_wiring(layer: LayerShape, kept: KeptHeads) -> None:
    """Attention pairs query head i with KV head i // group, so every kept pair must line up."""
    if len(kept.query) % len(kept.kv):
        raise ValueError(
            f"{len(kept.query)} query heads can't share {len(kept.kv)} KV heads evenly"
        )
    group = len(kept.query) // len(kept.kv)
    for place, query in enumerate(kept.query):
        if kept.kv[place // group] != query // layer.group_size:
            raise ValueError(
                f"query head {query} would attend to KV head {kept.kv[place // group]} instead of "
                f"{query // layer.group_size}: remove whole groups, or equally many heads of each"
            )


def _expand(heads: tuple[int, ...], head_dim: int) -> Tensor:
    """Row numbers of whole heads."""
    return (torch.tensor(heads)[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _columns(stored: Tensor, compensated: Tensor | None, index: Tensor) -> Tensor:
    """The kept columns, of the compensated weights where there are any, in the stored dtype."""
    if compensated is None:
        return stored[:, index]
    return compensated[:, index.to(compensated.device)].to("cpu", stored.dtype)
