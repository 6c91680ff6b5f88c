"""What torch computes, to set beside a graph: one layer in memory at a time, without a cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.prune.forward import LayerForward, full_float32
from slimgpt_export.onnx.rounded_forward import Numbers, embedded, head_inputs, run_layer
from slimgpt_export.onnx.weights import EMBEDDING, HEAD

_ROWS_AT_A_TIME = 8192
"""Of the head: a few hundred MiB in float32 at the largest hidden sizes."""


def reference_logits(
    checkpoint: Checkpoint,
    numbers: Numbers,
    ids: Int[Tensor, " tokens"],
    kept: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Float[Tensor, "kept vocab"]:
    """Logits of a text's last positions, in float32.

    Args:
        checkpoint: tells shape and config.
        numbers: the checkpoint's own, or those that a graph computes with.
        ids: of the text.
        kept: positions.
        advance: is told of every layer.
    """
    meta, cpu = checkpoint.meta, torch.device("cpu")
    forward = LayerForward(meta.family, meta.config, len(ids), cpu, torch.float32)
    with torch.no_grad(), full_float32():
        states = embedded(checkpoint, numbers, ids[None])
        for index in range(len(meta.shape.layers)):
            run_layer(forward, checkpoint, index, numbers, [states])
            advance(1)
        last = head_inputs(checkpoint, numbers, states)[-kept:]
        name = EMBEDDING if meta.shape.tied_embeddings else HEAD
        rows = checkpoint.outer(name).split(_ROWS_AT_A_TIME)
        return torch.cat([last @ numbers.rows(name, part).T for part in rows], dim=1)
