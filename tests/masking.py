"""The dense model in which what pruning removed is masked: it must be the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from slimgpt.checkpoint.reader import Checkpoint
from tests.tiny_models import load


def stored_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, shards put together."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def kept_units(dense: Tensor, pruned: Tensor, size: int) -> list[int]:
    """Which blocks of ``size`` rows were kept; they are copied unchanged, so they are found."""
    blocks = dense.split(size)
    kept = []
    for block in pruned.split(size):
        same = [i for i, candidate in enumerate(blocks) if torch.equal(block, candidate)]
        assert len(same) == 1, f"a kept block equals {len(same)} blocks of the dense model"
        kept += same
    return kept


def masked(dense: Path, pruned: Path) -> Any:
    """The dense model with the pruned one's output projections, removed columns zero."""
    model = load(dense)
    before, after = stored_tensors(dense), stored_tensors(pruned)
    state = model.state_dict()
    sub_blocks = {
        "self_attn.o_proj": ("self_attn.q_proj", Checkpoint(pruned).shape.head_dim),
        "mlp.down_proj": ("mlp.gate_proj", 1),
    }
    for i in range(model.config.num_hidden_layers):
        for output, (rows, size) in sub_blocks.items():
            output, rows = (f"model.layers.{i}.{x}" for x in (output, rows))
            if f"{output}.weight" not in state:
                continue  # pruned before: the sub-block was absent already
            weight = torch.zeros_like(state[f"{output}.weight"])
            if f"{output}.weight" in after:
                kept = kept_units(before[f"{rows}.weight"], after[f"{rows}.weight"], size)
                weight.unflatten(1, (-1, size))[:, kept] = (
                    after[f"{output}.weight"].to(weight).unflatten(1, (-1, size))
                )
            elif f"{output}.bias" in state:
                state[f"{output}.bias"].zero_()
            state[f"{output}.weight"].copy_(weight)
    return model
