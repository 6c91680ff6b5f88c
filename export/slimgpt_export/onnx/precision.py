"""What the numbers of a graph are stored and computed in. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Name = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Part = Literal["first", "last", "head"]

ACTIVATIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Number formats as torch spells them, by precision."""
BITS = {"int8": 8, "int4": 4}
PARTS: tuple[Part, ...] = ("first", "last", "head")
"""What may stay at higher precision: the first and the last layer, and the LM head."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How weights are stored and what is computed in.

    Attributes:
        name: as the user gives it.
        activations: number format of activations, caches and what is not quantised, as torch
            spells it.
        block_size: values of a row that share one scale, where blocks of it fit.
        symmetric: no zero points.
        accuracy_level: of MatMulNBits: 4 computes in int8, 0 in the type of the activations.
        higher: parts whose weights have more bits than the rest, and how many; None is not
            quantised.
    """

    name: Name
    activations: str = "float32"
    block_size: int = 32
    symmetric: bool = True
    accuracy_level: int = 4
    higher: Mapping[Part, int | None] = field(default_factory=dict)

    @property
    def bits(self) -> int | None:
        """Bits of a quantised weight; None where weights are not quantised."""
        return BITS.get(self.name)

    def bits_of(self, part: Part | None) -> int | None:
        """Bits of the weights of a part, or of all that is no part."""
        return self.bits if part is None else self.higher.get(part, self.bits)

    @property
    def quantized(self) -> bool:
        return self.bits is not None

    @property
    def wider(self) -> str:
        """Options that hold larger values than float16, as the user gives them."""
        if self.quantized:
            return "--activations float32, or on GPUs bfloat16"
        return "--precision fp32, or on GPUs bf16"
