"""Everything a user may decide about a recovery."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, isfinite
from typing import Any, Literal

from slimgpt.errors import UsageError

Prompt = Literal["alpaca", "chat", "none"]
PROMPTS = ("alpaca", "chat", "none")
SCHEDULES = ("cosine", "linear", "constant")
_EXECUTION = ("device", "fresh", "gradient_checkpointing")


@dataclass(frozen=True, slots=True)
class RecoverOptions:
    """Options of a recovery; the defaults are the SlimGPT paper's.

    Attributes:
        rank: of the low-rank updates.
        alpha: the updates are scaled by ``alpha / rank``.
        dropout: on the input of the updates while training.
        learning_rate: highest of the schedule.
        schedule: of the learning rate after the warm-up.
        warmup_steps: over which the rate rises from zero.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        batch_size: examples an optimiser step.
        micro_batch: examples in memory at once; a divisor of the batch size, or above it.
        max_length: tokens an example is cut to.
        epochs: passes over the data.
        max_steps: optimiser steps, instead of epochs.
        held_out: examples kept back, at most a tenth of all.
        evaluations: of the held-out loss, over the whole training.
        prompt: how an instruction is put: Alpaca's template, the model's chat template, or bare.
        distill_weight: weight in [0, 1] of KL(dense || model) against the data's cross-entropy.
        temperature: softens both distributions of the KL.
        gradient_checkpointing: computes activations twice to hold fewer.
        seed: of the split, the order of the data, the updates' start and dropout.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: of the frozen weights while training; ``auto`` is float32 on a CPU, and on a GPU
            float32 for a model that is stored so, else bfloat16. The updates are always float32.
        fresh: throw away an unfinished run instead of resuming it.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    learning_rate: float = 1e-4
    schedule: str = "cosine"
    warmup_steps: int = 10
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch_size: int = 64
    micro_batch: int = 16
    max_length: int = 256
    epochs: float = 1.0
    max_steps: int | None = None
    held_out: int = 2000
    evaluations: int = 10
    prompt: Prompt = "alpaca"
    distill_weight: float = 0.0
    temperature: float = 1.0
    gradient_checkpointing: bool = False
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    fresh: bool = False

    def __post_init__(self) -> None:
        self._require_counts()
        self._require_numbers()
        if self.schedule not in SCHEDULES:
            raise UsageError(f"--lr-schedule {self.schedule}: give one of {', '.join(SCHEDULES)}")
        if self.prompt not in PROMPTS:
            raise UsageError(f"--prompt {self.prompt}: give one of {', '.join(PROMPTS)}")
        if self.batch_size % self.examples_at_once:
            raise UsageError(
                f"--batch-size {self.batch_size} is no multiple of --micro-batch "
                f"{self.micro_batch}: every step adds up whole micro-batches"
            )

    @property
    def examples_at_once(self) -> int:
        return min(self.micro_batch, self.batch_size)

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimiser step."""
        return self.batch_size // self.examples_at_once

    def steps(self, examples: int) -> int:
        """Optimiser steps of a training on so many examples; the last of an epoch may be short."""
        return self.max_steps or ceil(self.epochs * ceil(examples / self.batch_size))

    def recipe(self) -> dict[str, Any]:
        """The ``recipe.recovery`` entry of the manifest: all that decides the resulting bytes."""
        entry = {k: v for k, v in asdict(self).items() if k not in _EXECUTION}
        # The number of examples at once decides in which order gradients are added up.
        return entry | {"micro_batch": self.examples_at_once}

    def _require_counts(self) -> None:
        for name in ("rank", "batch_size", "micro_batch", "held_out", "evaluations"):
            if getattr(self, name) < 1:
                raise UsageError(f"{_flag(name)} {getattr(self, name)}: give at least 1")
        if self.max_length < 2:
            raise UsageError(f"--max-length {self.max_length}: give at least 2 tokens")
        if self.warmup_steps < 0:
            raise UsageError(f"--warmup-steps {self.warmup_steps}: give 0 or more")
        if self.max_steps is not None and self.max_steps < 1:
            raise UsageError(f"--max-steps {self.max_steps}: give at least 1")

    def _require_numbers(self) -> None:
        for name in ("alpha", "learning_rate", "epochs", "max_grad_norm", "temperature"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise UsageError(f"{_flag(name)} {value:g}: give a number above 0")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout {self.dropout:g}: give at least 0 and below 1")
        if not 0 <= self.distill_weight <= 1:
            raise UsageError(f"--distill-weight {self.distill_weight:g}: give 0 to 1")
        if not 0 <= self.weight_decay <= 1:
            raise UsageError(f"--weight-decay {self.weight_decay:g}: give 0 to 1")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
