"""Checkpoints of any per-layer widths, with weights of their own: no pruning is needed for them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.checkpoint.writer import write_json
from slimgpt.modeling import ARCHITECTURES
from slimgpt.shape import LayerShape
from tests.tiny_models import randomize

Widths = tuple[tuple[int, int, int], ...]
"""Query heads, KV heads and FFN neurons of each layer."""


def write_source(dense: Path, widths: Widths, path: Path) -> None:
    """Writes a model of the family, config and number format of another."""
    meta = Checkpoint(dense).meta
    shape = meta.shape.with_layers(tuple(LayerShape(*x) for x in widths))
    values = meta.family.per_layer_config(meta.config, shape)
    config = ARCHITECTURES[meta.family.pruned_model_type].config.from_dict(values)
    model = AutoModelForCausalLM.from_config(config)
    randomize(model, seed=sum(path.name.encode()))
    model.to(getattr(torch, meta.dtype)).save_pretrained(path)
    write_json(path / "config.json", values)  # as slimgpt writes it, in the source's spelling
