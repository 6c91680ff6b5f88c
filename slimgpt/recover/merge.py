"""Updates added into plain weights, and the proof that the result is the same model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import GateMissed, IntegrityError
from slimgpt.progress import Progress
from slimgpt.prune.journal import Journal
from slimgpt.recover.data import Example

if TYPE_CHECKING:
    from torch import Tensor

CHECKED_EXAMPLES = 4
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest logit difference allowed, relative to the largest logit, by type.

The merged weights are rounded once to the type that they are stored in, which the adapter beside
them is not; and both models compute in a type of their own, which rounds too.
"""


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """Adapter model against merged model.

    Attributes:
        largest_logit_difference: over all scored predictions of some held-out examples.
        largest_logit: in absolute value, of the adapter model.
        exact_difference: the same difference before the merged weights are stored.
        tokens: predictions compared.
    """

    largest_logit_difference: float
    largest_logit: float
    exact_difference: float
    tokens: int


def merge(checkpoint: Checkpoint, adapted: Any, journal: Journal, progress: Progress) -> None:
    """Writes every block of the merged model, one layer in memory at a time, as it is stored.

    Blocks of a run that was killed are written again: that costs less than to trust them.

    Args:
        checkpoint: the model that was trained.
        adapted: it, with its updates beside the weights.
        journal: takes the blocks.
        progress: is told of each layer.

    Raises:
        GateMissed: a merged weight overflows its type.
        IntegrityError: an update belongs to no weight.
    """
    from slimgpt.checkpoint.writer import write_durably
    from slimgpt.recover.adapter import updated

    updates = updated(adapted)
    outer = {name: checkpoint.outer(name) for name in checkpoint.shape.outer_tensors()}
    write_durably(journal.outer, outer, {})
    for index in range(len(checkpoint.shape.layers)):
        tensors = {f"model.layers.{index}.{n}": t for n, t in checkpoint.layer(index).items()}
        merged = {n: _sum(n, t, updates.pop(n, None)) for n, t in tensors.items()}
        journal.finish_layer(index, merged, {})
        progress.advance()
    if updates:
        raise IntegrityError(f"the update of {min(updates)} belongs to no weight of the model")


def _sum(name: str, weight: Tensor, update: Any | None) -> Tensor:
    """``W + scaling * B A`` in float32, rounded once to the stored type."""
    from slimgpt.recover.adapter import delta

    if update is None:
        return weight
    merged = (weight.float() + delta(update)).to(weight.dtype)
    if not merged.isfinite().all():
        raise GateMissed(
            f"{name} overflows {weight.dtype} when merged: nothing is written; give a lower "
            "--learning-rate and --fresh"
        )
    return merged


def logits_of(model: Any, examples: tuple[Example, ...]) -> Tensor:
    """Logits at the scored tokens of a few examples, (scored, vocab), float32, on the CPU."""
    import torch

    from slimgpt.recover.batches import collate, scored_logits, to_device

    device = next(model.parameters()).device
    with torch.no_grad():
        return scored_logits(model, to_device(collate(examples), device))[0].cpu()


def exactly_merged_logits(adapted: Any, examples: tuple[Example, ...]) -> Tensor:
    """As :func:`logits_of`, with the updates added into the weights in memory, by peft."""
    adapted.merge_adapter()
    try:
        return logits_of(adapted, examples)
    finally:
        adapted.unmerge_adapter()


def compare(adapter: Tensor, exact: Tensor, stored: Tensor, *dtypes: str) -> MergeCheck:
    """Compares logits of the three forms of one model.

    Args:
        adapter: updates beside the weights.
        exact: merged in memory.
        stored: merged, rounded and read back.
        dtypes: that weights are stored in, and that logits are computed in.

    Raises:
        IntegrityError: they are different models.
    """
    largest = float(adapter.abs().max())
    check = MergeCheck(
        largest_logit_difference=float((stored - adapter).abs().max()),
        largest_logit=largest,
        exact_difference=float((exact - adapter).abs().max()),
        tokens=len(adapter),
    )
    allowed = max(TOLERANCE[dtype] for dtype in dtypes) * largest
    if not check.largest_logit_difference <= allowed:
        raise IntegrityError(
            f"the merged model is not the one that was trained: its logits differ by up to "
            f"{check.largest_logit_difference:.3g}, where {allowed:.3g} is rounding"
        )
    return check
