"""Is what was exported the same function: the logits of source and result on the same tokens."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import EnvironmentProblem, GateMissed
from slimgpt.release.manifest import rounded
from slimgpt.resources import available_memory_bytes, human_bytes
from slimgpt.shape import ModelShape

if TYPE_CHECKING:
    from torch import Tensor

EXACT = 1e-3
"""Largest difference allowed of an exact export, in standard deviations of the logits.

On tiny models, sums in another order came to 4e-6, and query heads at wrong KV heads to 2.
"""
_SEQUENCES, _TOKENS, _COMPARED = 2, 96, 64
_LONGEST_WINDOW = 2**15
"""Attention costs the square of the tokens: no model in use has a longer window that counts."""
_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two models are apart.

    Attributes:
        largest_difference: of two logits.
        scale: standard deviation of the source's logits.
        tokens: positions compared, each with all its logits.
        seen: tokens before and at the last of them.
    """

    largest_difference: float
    scale: float
    tokens: int
    seen: int

    @property
    def relative(self) -> float:
        """The largest difference in standard deviations of the logits."""
        return self.largest_difference / self.scale if self.scale else float("inf")

    def to_json(self) -> dict[str, Any]:
        return rounded({**asdict(self), "relative": self.relative})  # type: ignore[no-any-return]


def probe(meta: ConfigOnly, seed: int) -> Tensor:
    """Random token ids of the model's vocabulary, (sequences, tokens).

    They reach beyond a sliding window, as far as the model's context allows: before its end, all
    windows look the same. One that the context does not exceed is none.
    """
    import torch

    most = meta.context_length or _LONGEST_WINDOW + _COMPARED
    windows = (meta.family.sliding_window(meta.config, i) for i in range(len(meta.shape.layers)))
    counting = [w for w in windows if w and w < most and w <= _LONGEST_WINDOW]
    tokens = min(max(_TOKENS, *(w + _COMPARED for w in counting), 0), most)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(meta.shape.vocab_size, (_SEQUENCES, tokens), generator=generator)


def logits_of(directory: Path, ids: Tensor, device: str) -> Tensor:
    """Logits of a checkpoint at the last positions, in float32, on the CPU; it is freed again.

    Args:
        directory: of it.
        ids: as :func:`probe` makes them.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
    """
    import torch

    from slimgpt.loading import load_model
    from slimgpt.prune.forward import full_float32

    model, _ = load_model(directory, device=device, dtype="float32")
    there = next(model.parameters()).device
    with torch.no_grad(), full_float32():
        logits: Tensor = model(
            ids.to(there), use_cache=False, logits_to_keep=min(_COMPARED, ids.shape[1])
        ).logits
    found = logits.float().cpu()
    del model, logits
    gc.collect()  # modules refer to each other in circles, and the next model needs the room
    return found


def compare(source: Tensor, result: Tensor, seen: int) -> Parity:
    """Compares logits of two models.

    Args:
        source: of the model that was exported, (sequences, positions, vocabulary).
        result: of the export.
        seen: tokens that the last position could see.
    """
    return Parity(
        largest_difference=float((result - source).abs().max()),
        scale=float(source.std()),
        tokens=source.shape[0] * source.shape[1],
        seen=seen,
    )


def require_same(parity: Parity, limit: float = EXACT) -> None:
    """Passes an export whose logits are those of its source.

    Raises:
        GateMissed: they are not; a difference that is no number is none that is small.
    """
    if not parity.relative <= limit:
        raise GateMissed(
            f"the export is another function: its logits differ by up to {parity.relative:.3g} "
            f"standard deviations, where {limit:g} is rounding: nothing is written; please report "
            "this with the config.json of MODEL",
            measured=parity.relative,
            limit=limit,
        )


def require_room(shape: ModelShape) -> None:
    """Refuses a check whose model does not fit into memory, before anything is written.

    Raises:
        EnvironmentProblem: with what is needed and what is free.
    """
    needed, free = shape.weight_bytes(_FLOAT32_BYTES), available_memory_bytes()
    if free is not None and free < needed:
        raise EnvironmentProblem(
            f"the check of the logits loads the model in float32, {human_bytes(needed)}, and "
            f"{human_bytes(free)} of memory are free: export on a machine with more"
        )
