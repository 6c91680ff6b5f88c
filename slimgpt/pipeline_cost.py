"""What each stage of `slimgpt compress` will take, and whether this machine can carry it. No torch.

The caller counts the work (windows, examples, sequences); the rest follows from the shapes and
from two measured speeds.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimgpt.estimate import estimate
from slimgpt.machine_speed import MachineSpeed
from slimgpt.pass_cost import (
    FLOAT32,
    forward_s,
    training_activation_bytes,
    training_s,
    update_values,
    widest_features,
)
from slimgpt.planning import Plan
from slimgpt.resources import available_memory_bytes, human_bytes

_PROCESS_BYTES = 600 * 2**20
"""Python with torch, transformers, and peft or lm-eval imported."""
_UPDATE_BYTES = 4 * FLOAT32
"""Of one value of an update: itself, its gradient and two moments of AdamW."""
_KEPT_BYTES = 3 * 3 * FLOAT32 + FLOAT32
"""Three training checkpoints (two, and the one that is written) of it and its moments; the best."""
_TEXT_TOKENS_AT_ONCE = 1024
_JUDGED_LOGIT_COPIES = 6
_HELP = {
    "prune": "lower prune.samples or prune.sequence_length",
    "recover": "lower recover.micro_batch or recover.max_length, or set "
    "recover.gradient_checkpointing to true",
    "evaluate": "lower evaluate.batch_size or the window of the texts",
    "speed": "lower gates.speedup.batch or gates.speedup.prompt",
}


@dataclass(frozen=True, slots=True)
class StageCost:
    """An estimate.

    Attributes:
        stage: ``prune``, ``recover``, ``evaluate`` or ``speed``.
        seconds: wall time.
        memory_bytes: at its peak; on a GPU, of its own memory, but for ``prune``.
        disk_bytes: most that lies in the work directory meanwhile, results of earlier stages
            included: what a job needs is the largest of its stages.
        basis: what was counted, in words.
    """

    stage: str
    seconds: float
    memory_bytes: int
    disk_bytes: int
    basis: str


@dataclass(frozen=True, slots=True)
class Computing:
    """With what a job computes.

    Attributes:
        machine: its speeds.
        stored_bytes: of a weight on the disk.
        value_bytes: of a weight in memory; 4 on a CPU unless ``--dtype`` says otherwise.
    """

    machine: MachineSpeed
    stored_bytes: int
    value_bytes: int


@dataclass(frozen=True, slots=True)
class Calibrating:
    """Work of pruning: windows, tokens in each, and whether hidden states go to a file."""

    samples: int
    tokens: int
    on_disk: bool = False


@dataclass(frozen=True, slots=True)
class Training:
    """Work of a recovery.

    Attributes:
        examples: to train on.
        held_out: examples that are watched.
        tokens: of an example, on average.
        longest: tokens that an example is cut to.
        rank: of the updates.
        batch_size: examples an optimiser step.
        micro_batch: examples in memory at once.
        epochs: passes over the examples.
        max_steps: optimiser steps instead; None is no limit.
        evaluations: of the held-out examples, beside one before and one after.
        distills: from the dense model.
        gradient_checkpointing: computes activations twice.
    """

    examples: int
    held_out: int
    tokens: int
    longest: int = 256
    rank: int = 8
    batch_size: int = 64
    micro_batch: int = 16
    epochs: float = 1.0
    max_steps: int | None = None
    evaluations: int = 10
    distills: bool = False
    gradient_checkpointing: bool = False

    @property
    def seen(self) -> float:
        """Examples that go through the model, forward and back."""
        if self.max_steps is not None:
            return float(self.max_steps * self.batch_size)
        return self.epochs * self.examples


@dataclass(frozen=True, slots=True)
class Judging:
    """Work of an evaluation, which the dense model and the result do alike.

    Attributes:
        text_tokens: of all texts.
        window: tokens in a window of them.
        requests: sequences to score for all tasks: questions times choices.
        request_tokens: in each, on average.
        batch_size: sequences scored together.
    """

    text_tokens: int = 0
    window: int = 128
    requests: int = 0
    request_tokens: int = 128
    batch_size: int = 16


def prune_cost(plan: Plan, work: Calibrating, computing: Computing) -> StageCost:
    """Cost of pruning (see :mod:`slimgpt.estimate`); the result is on the disk twice at the end."""
    cost = estimate(plan, work.samples, work.tokens, computing.stored_bytes)
    states = FLOAT32 * work.samples * work.tokens * plan.source.hidden_size
    on_file = states if work.on_disk else 0
    return StageCost(
        "prune",
        cost.flops / computing.machine.flops_per_s,
        cost.peak_memory_bytes - on_file,
        2 * plan.target.weight_bytes(computing.stored_bytes) + on_file,
        f"{len(plan.source.layers)} layers with {work.samples} x {work.tokens} tokens",
    )


def recover_cost(plan: Plan, work: Training, computing: Computing) -> StageCost:
    """Cost of training updates on the pruned model, of scoring the held-out examples and merging.

    In memory are the weights, the dense model's to distil from, the updates with their gradients
    and moments, and the activations and logits of a micro-batch. On the disk are the pruned
    weights, the merged ones twice, and the training checkpoints.
    """
    model, machine = plan.target, computing.machine
    example_s = training_s(
        model, work.tokens, work.rank, machine, recomputes=work.gradient_checkpointing
    )
    if work.distills:
        example_s += forward_s(plan.source, work.tokens, machine)
    scored = work.held_out * (work.evaluations + 2)
    updates = update_values(model, work.rank)
    weights = model.weight_bytes(computing.value_bytes)
    if work.distills:
        weights += plan.source.weight_bytes(computing.value_bytes)
    activations = training_activation_bytes(
        model,
        min(work.micro_batch, work.batch_size) * work.longest,
        recomputes=work.gradient_checkpointing,
        taught=work.distills,
        machine=machine,
    )
    return StageCost(
        "recover",
        work.seen * example_s + scored * forward_s(model, work.tokens, machine),
        _process_bytes(machine) + weights + _UPDATE_BYTES * updates + activations,
        3 * model.weight_bytes(computing.stored_bytes) + _KEPT_BYTES * updates,
        f"{work.seen:,.0f} examples of {work.tokens} tokens to train {updates:,} values on, "
        f"{scored:,} to score{', taught by the dense model' if work.distills else ''}",
    )


def evaluate_cost(plan: Plan, work: Judging, computing: Computing) -> StageCost:
    """Cost of scoring texts and tasks with two models; the release is put together after it.

    Texts need both models in memory, for the KL; tasks alone take one after the other.
    """
    machine, models = computing.machine, (plan.source, plan.target)
    windows = work.text_tokens // work.window
    seconds = sum(
        windows * forward_s(model, work.window, machine)
        + work.requests * forward_s(model, work.request_tokens, machine)
        for model in models
    )
    sizes = [model.weight_bytes(computing.value_bytes) for model in models]
    tokens = max(
        min(windows * work.window, max(_TEXT_TOKENS_AT_ONCE, work.window)),
        min(work.requests, work.batch_size) * work.request_tokens,
    )
    values = _JUDGED_LOGIT_COPIES * plan.source.vocab_size + widest_features(plan.source)
    memory = (
        _process_bytes(machine)
        + (sum(sizes) if windows else max(sizes))
        + FLOAT32 * tokens * values
    )
    return StageCost(
        "evaluate",
        seconds,
        memory if tokens else 0,
        2 * plan.target.weight_bytes(computing.stored_bytes),
        f"{windows * work.window:,} tokens of text and {work.requests:,} sequences of about "
        f"{work.request_tokens} tokens, by two models",
    )


def machine_check(costs: Sequence[StageCost], out_dir: Path, device: str = "cpu") -> list[str]:
    """What this machine lacks for a job, a line each; nothing where it can carry it.

    Args:
        costs: of its stages.
        out_dir: OUT, or the folder that it will be in.
        device: ``cpu``, ``cuda`` or ``cuda:i``; torch is asked for the memory of a GPU.
    """
    problems = []
    for cost in costs:
        on_gpu = device.startswith("cuda") and cost.stage != "prune"
        free = _free_gpu_bytes(device) if on_gpu else available_memory_bytes()
        if free is not None and cost.memory_bytes > free:
            problems.append(
                f"{cost.stage} needs about {human_bytes(cost.memory_bytes)} of memory"
                f"{' on ' + device if on_gpu else ''}, where {human_bytes(free)} are free: "
                f"{_HELP[cost.stage]}"
            )
    needed = max((cost.disk_bytes for cost in costs), default=0)
    existing = next(p for p in (out_dir, *out_dir.absolute().parents) if p.exists())
    room = shutil.disk_usage(existing).free
    if needed > room:
        problems.append(
            f"the job needs about {human_bytes(needed)} of disk at {existing}, where "
            f"{human_bytes(room)} are free: free some or give an OUT on another disk"
        )
    return problems


def _process_bytes(machine: MachineSpeed) -> int:
    return 0 if machine.is_gpu else _PROCESS_BYTES


def _free_gpu_bytes(device: str) -> int:
    import torch

    return int(torch.cuda.mem_get_info(device)[0])
