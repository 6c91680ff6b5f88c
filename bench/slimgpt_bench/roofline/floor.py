"""The least time that a forward pass can take, by layer, and of it what the quantities of a bench.

``seconds = max(bytes / bandwidth, FLOPs / peak)`` of each matrix product, added up: the roofline
(Williams, Waterman and Patterson, 2009). It is a floor: what starts a kernel, and all that is not a
matrix product, comes on top. Attention is taken to see the whole text: where a model has windows
that are shorter than it, its attention may be faster than this.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimgpt.shape import ModelShape
from slimgpt_bench.accelerators import Accelerator
from slimgpt_bench.roofline.products import (
    Numbers,
    Product,
    Step,
    decode,
    head_product,
    layer_products,
    prefill,
)

LEFT_OUT = (
    "norms, rotary embedding, softmax, sampling, kernel launches and everything that Python does"
)


@dataclass(frozen=True, slots=True)
class Floor:
    """Of one forward pass.

    Attributes:
        layers: seconds of each decoder layer.
        head: seconds of the LM head.
        waste: seconds of each layer that go into filling up tiles and waves.
    """

    layers: tuple[float, ...]
    head: float
    waste: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return sum(self.layers) + self.head


def floor(shape: ModelShape, step: Step, device: Accelerator, numbers: Numbers) -> Floor:
    """The least time of a pass.

    Args:
        shape: actual widths of every layer.
        step: what is read.
        device: its speeds.
        numbers: bytes of values.
    """
    products = [list(layer_products(shape, x, step, device, numbers)) for x in shape.layers]
    took = tuple(_seconds(x, device, numbers) for x in products)
    without = tuple(_seconds(x, device, numbers, padded=False) for x in products)
    return Floor(
        took,
        head_product(shape, step, device, numbers).seconds(device, numbers.dtype),
        tuple(a - b for a, b in zip(took, without, strict=True)),
    )


def _seconds(
    products: list[Product], device: Accelerator, numbers: Numbers, *, padded: bool = True
) -> float:
    return sum(x.seconds(device, numbers.dtype, padded=padded) for x in products)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of what is generated: as a cell of ``slimgpt bench``."""

    batch: int
    prompt_tokens: int
    output_tokens: int


def quantities(
    shape: ModelShape,
    cell: Lengths,
    device: Accelerator,
    numbers: Numbers,
    *,
    prompts_together: bool = True,
) -> dict[str, float]:
    """Floors of what a bench measures, in seconds; no ``tpot_s`` for a single output token.

    A decode step is taken in the middle of the answer, where its cache has the mean length.

    Args:
        shape: actual widths of every layer.
        cell: how much is read and written.
        device: its speeds.
        numbers: bytes of values.
        prompts_together: whether all prompts of a batch are read in one pass, or one by one.
    """
    passes = 1 if prompts_together else cell.batch
    step = prefill(cell.batch // passes, cell.prompt_tokens)
    first = passes * floor(shape, step, device, numbers).seconds
    found = {"prefill_s": first, "ttft_s": first}
    steps = cell.output_tokens - 1
    if steps < 1:
        return found | {"e2e_s": first}
    one = floor(shape, middle(cell), device, numbers).seconds
    return found | {"tpot_s": one, "e2e_s": first + steps * one}


def middle(cell: Lengths) -> Step:
    """The decode step in the middle of the answer."""
    return decode(cell.batch, cell.prompt_tokens + max(1, cell.output_tokens // 2))
