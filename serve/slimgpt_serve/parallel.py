"""How vLLM shares a model out over devices, and what it can't share out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from slimgpt.errors import UsageError
from slimgpt.shape import LayerShape


def divides(layer: LayerShape, degree: int) -> bool:
    """Whether a layer splits over ``degree`` devices.

    Query heads and FFN widths must be multiples. KV heads must be a multiple, or divide the degree
    (then each is kept on more than one device).
    """
    return (
        layer.query_heads % degree == 0
        and layer.ffn % degree == 0
        and (layer.kv_heads % degree == 0 or degree % layer.kv_heads == 0)
    )


def possible_degrees(layers: Sequence[LayerShape], most: int = 16) -> list[int]:
    """Every degree up to ``most`` that divides all layers."""
    return [n for n in range(1, most + 1) if all(divides(layer, n) for layer in layers)]


def require_divisible(
    layers: Sequence[LayerShape], degree: int, asked: str = "tensor parallel"
) -> None:
    """Refuses a degree that a layer can't be split by.

    Args:
        layers: of the model.
        degree: of tensor parallelism.
        asked: what the user gave it by; `vllm serve` has another flag than `slimgpt serve`.

    Raises:
        UsageError: naming the first such layer, and the degrees that work.
    """
    for index, layer in enumerate(layers):
        if not divides(layer, degree):
            works = ", ".join(map(str, possible_degrees(layers)))
            raise UsageError(
                f"{asked} {degree} does not divide layer {index} ({layer.query_heads} "
                f"query heads, {layer.kv_heads} KV heads, FFN {layer.ffn}): give {works}, or prune "
                f"with --tensor-parallel {degree}"
            )


def stage_bounds(layers: int, stages: int) -> list[tuple[int, int]]:
    """First layer of each pipeline stage, and the one after its last, as vLLM shares them out.

    Layers that can't be shared out evenly go to the stages before the last.
    """
    size, rest = divmod(layers, stages)
    sizes = [size] * stages
    for i in range(rest):
        sizes[-2 - i] += 1
    return list(pairwise(accumulate(sizes, initial=0)))


def require_attention(layers: Sequence[LayerShape], start: int, end: int) -> None:
    """Refuses a pipeline stage that needs no KV cache: vLLM divides by its size.

    Raises:
        UsageError: none of these layers has attention.
    """
    if not any(layer.has_attention for layer in layers[start:end]):
        raise UsageError(
            f"layers {start} to {end - 1} are a pipeline stage, and none of them has attention, "
            "which vLLM needs: give fewer stages, or prune less"
        )
