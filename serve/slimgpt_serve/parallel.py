"""Whether a tensor-parallel degree divides every layer, as vLLM's layers demand."""

from __future__ import annotations

from collections.abc import Sequence

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


def require_divisible(layers: Sequence[LayerShape], degree: int) -> None:
    """Refuses a degree that a layer can't be split by.

    Raises:
        UsageError: naming the first such layer, and the degrees that work.
    """
    for index, layer in enumerate(layers):
        if not divides(layer, degree):
            works = ", ".join(map(str, possible_degrees(layers)))
            raise UsageError(
                f"tensor parallel {degree} does not divide layer {index} ({layer.query_heads} "
                f"query heads, {layer.kv_heads} KV heads, FFN {layer.ffn}): give {works}, or prune "
                f"with --tensor-parallel {degree}"
            )
