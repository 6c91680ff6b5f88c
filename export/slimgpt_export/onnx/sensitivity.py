"""What stays at higher precision: the parts whose weights cost the most KL for their bytes.

Measured on real text in torch, one layer at a time, and not by running graphs: one pass gives the
KL of every combination, memory holds a layer or two, and each matrix is rounded twice at most.
Graphs would have to be written and loaded whole, one for each combination and one in float32. Torch
computes with the graph's own numbers (:mod:`slimgpt_export.onnx.rounded_forward`): on the embedded
model and its prunings, KL came within 2 % of ONNX Runtime's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import IntegrityError
from slimgpt.progress import Progress, Silent
from slimgpt.shape import ModelShape
from slimgpt_export.onnx.geometry import plan_geometry
from slimgpt_export.onnx.precision import PARTS, Part, Precision
from slimgpt_export.onnx.side_by_side import SideBySide, in_order, raised_precision
from slimgpt_export.onnx.weights import GraphWeights

NEGLIGIBLE = 1e-3
"""KL in nats a token that counts as none: a tenth of a per cent of the perplexity."""
RULE = f"the least product of KL, taken as at least {NEGLIGIBLE:g}, and weight bytes"
"""Raising a part pays where KL falls by a larger factor than the weights grow by.

That is where a part's share of the loss is larger than its share of the bytes. All combinations are
measured, so that no order of raising them can miss the best.
"""
WINDOWS, TOKENS = 16, 128
"""Windows that are measured on, and tokens of each."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One combination.

    Attributes:
        raised: parts at higher precision.
        kl: mean KL(checkpoint || graph) of the predictions, nats.
        weight_bytes: of the graph's weights.
    """

    raised: tuple[Part, ...]
    kl: float
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What stays at higher precision, and why.

    Attributes:
        higher: bits of each part; None is not quantised.
        rows: all that was measured, the choice too.
        positions: predictions in each KL.
        rule: of the choice; None where the user chose.
    """

    higher: Mapping[Part, int | None]
    rows: tuple[Measured, ...]
    positions: int
    rule: str | None

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        rows = [
            {"raised": list(row.raised), "kl": row.kl, "weight_bytes": row.weight_bytes}
            for row in self.rows
        ]
        return {
            "higher": dict(self.higher),
            "sensitivity": {"rule": self.rule, "positions": self.positions, "measured": rows},
        }


def windows_of(ids: Int[Tensor, " tokens"], context: int) -> Int[Tensor, "windows tokens"]:
    """Windows to measure on, side by side: as many of the usual length as there are."""
    length = min(TOKENS, context, len(ids))
    count = min(WINDOWS, len(ids) // length)
    return ids[: count * length].view(count, length)


def choose_higher(
    checkpoint: Checkpoint,
    precision: Precision,
    windows: Int[Tensor, "windows tokens"],
    progress: Progress | None = None,
    *,
    keep: Sequence[Part] | None = None,
) -> Choice:
    """Measures what raising parts saves, and chooses those for which it pays.

    Args:
        checkpoint: dense or pruned.
        precision: of all else, int8 or int4; what it says of higher parts is not looked at.
        windows: token ids of real text.
        progress: watches.
        keep: parts that the user wants higher; None has them chosen. A model of one layer has no
            last layer.

    Raises:
        IntegrityError: the predictions are no numbers.
    """
    parts = parts_of(checkpoint.shape)
    if keep is None:
        asked = [frozenset(c) for n in range(len(parts) + 1) for c in combinations(parts, n)]
    else:
        asked = list(dict.fromkeys((frozenset(), frozenset(keep) & frozenset(parts))))
    found = SideBySide(checkpoint, precision, asked, windows, progress or Silent()).run()
    if not all(map(isfinite, found)):
        raise IntegrityError(
            f"--precision {precision.name}: the predictions are no numbers; the weights are "
            "damaged, or beyond what it can hold: give --precision fp32"
        )
    rows = tuple(
        Measured(
            in_order(c), max(0.0, kl), weight_bytes(checkpoint, raised_precision(precision, c))
        )
        for c, kl in zip(asked, found, strict=True)
    )
    chosen = best(rows) if keep is None else rows[-1]
    higher = raised_precision(precision, chosen.raised).higher
    return Choice(higher, rows, windows.numel(), RULE if keep is None else None)


def best(rows: Iterable[Measured]) -> Measured:
    """The row that RULE takes; of equals the smallest."""
    return min(
        rows,
        key=lambda row: (
            max(row.kl, NEGLIGIBLE) * row.weight_bytes,
            row.weight_bytes,
            len(row.raised),
        ),
    )


def parts_of(shape: ModelShape) -> tuple[Part, ...]:
    """Parts that a model has; a single layer is the first."""
    return tuple(part for part in PARTS if part != "last" or len(shape.layers) > 1)


def weight_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """Bytes of a graph's weights: all of its file but tables of rope and padding."""
    geometry = plan_geometry(checkpoint.shape, precision)
    weights = GraphWeights(checkpoint, geometry, precision, getattr(torch, precision.activations))
    shape = geometry.graph
    sizes = dict(shape.outer_tensors())
    for i, layer in enumerate(shape.layers):
        sizes |= {f"model.layers.{i}.{k}": size for k, size in shape.layer_tensors(layer).items()}
    return sum(_stored_bytes(weights, name, len(size)) for name, size in sizes.items())


def _stored_bytes(weights: GraphWeights, name: str, dimensions: int) -> int:
    blocks = weights.blocks(name) if dimensions == 2 else None
    if blocks is None:
        return weights.whole(name).nbytes
    tensors = (blocks.values, blocks.scales, blocks.zero_points)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
