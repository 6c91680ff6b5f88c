"""Cosines and sines of rotary embeddings at every position, as transformers computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.modeling import ARCHITECTURES, without_layers
from slimgpt_export.onnx.geometry import Geometry


@dataclass(frozen=True, slots=True)
class RopeTable:
    """What GroupQueryAttention reads: a row a position.

    Attributes:
        cos: (positions, half of a head).
        sin: as ``cos``.
    """

    cos: Float[Tensor, "positions half"]
    sin: Float[Tensor, "positions half"]


@dataclass(frozen=True, slots=True)
class Rope:
    """The tables of a model.

    Attributes:
        table: for texts of any length, or of at most ``switch`` tokens.
        longer: for texts of more tokens (longrope); None where the length does not matter.
        switch: where ``longer`` begins.
        positions: most tokens of a text; rope is not defined beyond.
    """

    table: RopeTable
    longer: RopeTable | None
    switch: int
    positions: int


def rope_tables(meta: ConfigOnly, geometry: Geometry) -> Rope:
    """Tables up to the model's context.

    The frequencies are transformers' own. Dynamic scaling leaves them as they are up to the
    context that the model was made for, which is where the tables end.
    """
    config = without_layers(_config(meta))
    positions = int(config.max_position_embeddings)
    switch = length_switch(meta)
    rotary = ARCHITECTURES[meta.family.pruned_model_type].rotary(config)
    short = _table(rotary, positions, geometry)
    if switch is None:
        return Rope(short, None, positions, positions)
    rotary(torch.zeros(1), torch.tensor([[positions - 1]]))  # takes the long factors from here on
    return Rope(short, _table(rotary, positions, geometry), switch, positions)


def context_length(meta: ConfigOnly) -> int:
    """Positions that the tables have; transformers' default where config.json is silent."""
    return int(_config(meta).max_position_embeddings)


def length_switch(meta: ConfigOnly) -> int | None:
    """Tokens beyond which a text has other angles (longrope); None where length does not matter."""
    config = _config(meta)
    rope = config.rope_parameters
    if rope["rope_type"] != "longrope":
        return None
    switch = int(rope["original_max_position_embeddings"])
    return switch if switch < config.max_position_embeddings else None


def _config(meta: ConfigOnly) -> Any:
    values = meta.family.per_layer_config(meta.config, meta.shape)
    return ARCHITECTURES[meta.family.pruned_model_type].config.from_dict(values)


def _table(rotary: Any, positions: int, geometry: Geometry) -> RopeTable:
    """Where heads are widened, the added values are zero, and any angle does."""
    frequencies: Tensor = rotary.inv_freq.float()
    angles = torch.outer(torch.arange(positions).float(), frequencies)
    added = (geometry.graph.head_dim - geometry.source.head_dim) // 2
    angles = torch.nn.functional.pad(angles, (0, added))
    scaling = float(rotary.attention_scaling)
    return RopeTable(angles.cos() * scaling, angles.sin() * scaling)
