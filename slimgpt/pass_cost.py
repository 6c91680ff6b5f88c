"""Time and memory of passes through a model, forward and back, from its shape. No torch.

Two kinds of work are counted: matrix products, at the measured speed of one, and values moved by
all else (norms, softmax, dropout, losses), at the measured speed of a copy. The factors of the
second kind are a fit to LLaMA models of width 128 to 1024 and vocabularies of 512 to 8192, one
thread, float32, torch 2.13, transformers 5.19, peft 0.21 (2026-11-22), whose times it gives within
about 30 %. Nothing was fitted on a GPU.
"""

from __future__ import annotations

from slimgpt.machine_speed import MachineSpeed
from slimgpt.shape import LayerShape, ModelShape

FLOAT32 = 4
# Values moved a token: for each feature (below), and for each logit with its loss.
_FORWARD_MOVES, _FORWARD_LOGIT_MOVES = 30, 50
_TRAINING_MOVES, _TRAINING_LOGIT_MOVES = 120, 150
_SAVED = 1.65
"""Values a feature kept for the backward pass, counted with torch's saved_tensors_hooks."""
_LOGIT_COPIES, _MORE_WITH_TEACHER = 4.2, 6
"""Copies of the logits that a loss and its gradient hold at once."""
_PROMPTLY_FREED_BYTES = 32 * 2**20
"""glibc keeps freed blocks that are smaller: training was measured to hold twice what it uses."""


def layer_features(model: ModelShape, layer: LayerShape) -> int:
    """Widths of the inputs and outputs of a layer's projections, added up."""
    matrices = (size for size in model.layer_tensors(layer).values() if len(size) == 2)
    return sum(rows + columns for rows, columns in matrices)


def features(model: ModelShape) -> int:
    """Of all layers."""
    return sum(layer_features(model, layer) for layer in model.layers)


def widest_features(model: ModelShape) -> int:
    """Of the layer that has most."""
    return max(layer_features(model, layer) for layer in model.layers)


def update_values(model: ModelShape, rank: int) -> int:
    """Parameters of LoRA on every projection: A (rank, in) and B (out, rank)."""
    return rank * features(model)


def forward_flops(model: ModelShape, tokens: int) -> int:
    """Of one sequence, with the LM head at every position."""
    if not tokens:
        return 0
    return model.prefill_flops(tokens) + 2 * (tokens - 1) * model.vocab_size * model.hidden_size


def forward_s(model: ModelShape, tokens: int, machine: MachineSpeed) -> float:
    """Seconds to score one sequence."""
    moved = _FORWARD_MOVES * features(model) + _FORWARD_LOGIT_MOVES * model.vocab_size
    return _seconds(forward_flops(model, tokens), tokens * moved, machine)


def training_s(
    model: ModelShape, tokens: int, rank: int, machine: MachineSpeed, *, recomputes: bool
) -> float:
    """Seconds to train LoRA on one sequence.

    Forward, back through the frozen weights, whose own gradients are not computed, and three
    times the updates.

    Args:
        model: with frozen weights.
        tokens: of the sequence.
        rank: of the updates.
        machine: where it is computed.
        recomputes: gradient checkpointing, which adds a forward pass.
    """
    flops = 2 * forward_flops(model, tokens) + 6 * update_values(model, rank) * tokens
    moved = _TRAINING_MOVES * features(model) + _TRAINING_LOGIT_MOVES * model.vocab_size
    again = forward_s(model, tokens, machine) if recomputes else 0.0
    return _seconds(flops, tokens * moved, machine) + again


def training_activation_bytes(
    model: ModelShape, tokens: int, *, recomputes: bool, taught: bool, machine: MachineSpeed
) -> int:
    """What is held between the forward pass and the backward pass, float32.

    Args:
        model: that is trained.
        tokens: in memory at once, all of them scored.
        recomputes: keeps the inputs of the layers and one layer's activations alone.
        taught: there are the logits of a dense model too.
        machine: where it is computed.
    """
    saved = _SAVED * features(model)
    if recomputes:
        saved = len(model.layers) * model.hidden_size + _SAVED * widest_features(model)
    typical = FLOAT32 * tokens * model.hidden_size
    if not machine.is_gpu and typical < _PROMPTLY_FREED_BYTES:
        saved *= 2
    copies = _LOGIT_COPIES + (_MORE_WITH_TEACHER if taught else 0)
    return int(FLOAT32 * tokens * (saved + copies * model.vocab_size))


def _seconds(flops: float, values: float, machine: MachineSpeed) -> float:
    return flops / machine.flops_per_s + FLOAT32 * values / machine.bytes_per_s
