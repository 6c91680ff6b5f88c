"""What one device holds of a served model: weights, KV cache, activations. No torch, no vLLM.

Exact from the shape where the weights are not quantised, except for the activations, which vLLM
measures when it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from slimgpt.shape import LayerShape, ModelShape
from slimgpt_serve.head_sizes import kernel_head_dim
from slimgpt_serve.parallel import stage_bounds

GIB = 2**30
VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
BLOCK_TOKENS = {"cpu": 128, "cuda": 16}
"""Tokens that vLLM gives a KV cache block where nobody says otherwise."""

_VOCABULARY_PADDING = 64
_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one device holds, of a model or of a model and its draft.

    Attributes:
        weight_bytes: of its part of the weights.
        kv_bytes_per_token: of its part of the KV cache.
        activation_bytes: an estimate of the largest step's.
    """

    weight_bytes: int
    kv_bytes_per_token: int
    activation_bytes: int

    def __add__(self, other: Footprint) -> Footprint:
        """Model and draft: both stay loaded, and take turns in one step's activations."""
        return Footprint(
            self.weight_bytes + other.weight_bytes,
            self.kv_bytes_per_token + other.kv_bytes_per_token,
            max(self.activation_bytes, other.activation_bytes),
        )


def largest(parts: Sequence[Footprint]) -> Footprint:
    """What a device needs that must do for any of these."""
    return Footprint(*map(max, zip(*map(astuple, parts), strict=True)))


def stage_shapes(shape: ModelShape, stages: int) -> list[ModelShape]:
    """What each pipeline stage holds, with embedding and head, which only its ends have, in all."""
    bounds = stage_bounds(len(shape.layers), stages)
    return [shape.with_layers(shape.layers[start:end]) for start, end in bounds]


def rank_shape(shape: ModelShape, degree: int) -> ModelShape:
    """The part of a model that one of ``degree`` devices holds, in vLLM's tensor parallelism.

    Matrices are split, norms and the biases of outputs are not; where there are fewer KV heads
    than devices each is kept on several. The vocabulary is padded to a multiple of 64.
    """

    def part(layer: LayerShape) -> LayerShape:
        kv_heads = max(1, layer.kv_heads // degree) if layer.kv_heads else 0
        return LayerShape(layer.query_heads // degree, kv_heads, layer.ffn // degree)

    padded = -(-shape.vocab_size // _VOCABULARY_PADDING) * _VOCABULARY_PADDING
    layers = tuple(part(layer) for layer in shape.layers)
    return replace(shape, layers=layers, vocab_size=-(-padded // degree))


def footprint(
    shape: ModelShape,
    *,
    degree: int,
    platform: str,
    weight_bytes_per_value: int,
    kv_bytes_per_value: int,
    step_tokens: int,
    step_sequences: int,
    packed_bytes: int | None = None,
) -> Footprint:
    """What one device holds.

    Args:
        shape: of the whole model.
        degree: of tensor parallelism; must divide every layer.
        platform: ``cpu`` or ``cuda``; CPU kernels widen narrow heads.
        weight_bytes_per_value: of weights and activations.
        kv_bytes_per_value: of keys and values.
        step_tokens: most tokens of one step of the engine.
        step_sequences: most sequences of one step.
        packed_bytes: of all weights together, where they are quantised.
    """
    part = rank_shape(shape, degree)
    whole_head = kernel_head_dim(shape.head_dim, platform)
    kv_heads = sum(layer.kv_heads for layer in part.layers)
    weights = part.weight_bytes(weight_bytes_per_value)
    return Footprint(
        weight_bytes=weights if packed_bytes is None else -(-packed_bytes // degree),
        kv_bytes_per_token=2 * whole_head * kv_bytes_per_value * kv_heads,
        activation_bytes=step_tokens * _widest_token(part) * weight_bytes_per_value
        + 2 * step_sequences * shape.vocab_size * _FLOAT32,
    )


def _widest_token(part: ModelShape) -> int:
    """Values alive for one token inside the widest sub-block: residual, input, and what it makes.

    The logits are counted apart: gathered on every device, in float32, with a copy for sampling.
    """
    attention = max(
        2 * x.query_heads * part.head_dim + 2 * x.kv_heads * part.head_dim for x in part.layers
    )
    ffn = max(3 * x.ffn for x in part.layers)
    return 3 * part.hidden_size + max(attention, ffn)


def step_sizes(platform: str, device_bytes: int, device_name: str, ranks: int) -> tuple[int, int]:
    """Most tokens and sequences of one step: the server's defaults in vLLM 0.26 to 0.33."""
    if platform == "cpu":
        return 2048 * ranks, 128 * ranks
    if device_bytes >= 160 * GIB:
        return 16384, 1024
    if device_bytes >= 70 * GIB and "a100" not in device_name.lower():
        return 8192, 1024
    return 2048, 256


def whole_blocks(kv_bytes: int, bytes_per_token: int, platform: str) -> int:
    """Tokens that a KV cache of that size holds, in whole blocks."""
    block = BLOCK_TOKENS[platform]
    return kv_bytes // (bytes_per_token * block) * block
