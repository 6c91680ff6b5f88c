"""Memory of engines that are measured against each other: whether all can run side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slimgpt.errors import EnvironmentProblem
from slimgpt.resources import human_bytes
from slimgpt.shape import ModelShape
from slimgpt_serve.preflight.machine import free_memory_bytes, gpus
from slimgpt_serve.preflight.memory import BLOCK_TOKENS, GIB, VALUE_BYTES, Footprint, footprint

_PROCESS_BYTES = 2 * GIB
"""vLLM's libraries, a CUDA context and graphs: an allowance (a CPU engine of the demo model, all
of it, was seen at 0.7 GiB)."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one engine needs.

    Attributes:
        held: weights, activations and KV cache of a token, of the model and of its draft.
        kv_bytes: of the whole KV cache.
    """

    held: Footprint
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.held.weight_bytes + self.held.activation_bytes + self.kv_bytes + _PROCESS_BYTES


def free_bytes(platform: str, environ: Mapping[str, str]) -> int | None:
    """Memory that engines may take: of the first GPU, or of the machine.

    Raises:
        EnvironmentProblem: there is no GPU.
    """
    if platform == "cpu":
        return free_memory_bytes()
    found = gpus(environ)
    if not found:
        raise EnvironmentProblem("torch sees no GPU: use a machine that has one, or --device cpu")
    return found[0].free_bytes


def engine_need(
    shapes: Sequence[ModelShape],
    platform: str,
    dtype: str,
    *,
    texts: int,
    context: int,
    step_tokens: int,
) -> Need:
    """What an engine of a model, or of a model and its draft, needs.

    Args:
        shapes: of the model, and of the draft where there is one.
        platform: ``cpu`` or ``cuda``.
        dtype: of weights and KV cache.
        texts: that run together.
        context: tokens of each.
        step_tokens: most tokens of one step.
    """
    parts = [
        footprint(
            shape,
            degree=1,
            platform=platform,
            weight_bytes_per_value=VALUE_BYTES[dtype],
            kv_bytes_per_value=VALUE_BYTES[dtype],
            step_tokens=step_tokens,
            step_sequences=texts,
        )
        for shape in shapes
    ]
    held = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    block = max(BLOCK_TOKENS.values())
    # Twice what the texts fill: vLLM keeps a block for itself, and looks ahead while drafting.
    blocks = 2 * (texts + 1) * -(-context // block)
    return Need(held, blocks * block * held.kv_bytes_per_token)


def side_by_side(needs: Sequence[Need], free: int | None) -> bool:
    """Whether all engines fit together; where not, they take turns.

    Raises:
        EnvironmentProblem: one of them does not fit alone.
    """
    if free is None:  # the system does not say
        return False
    largest = max(need.total_bytes for need in needs)
    if largest > free:
        raise EnvironmentProblem(
            f"DENSE with DRAFT needs about {human_bytes(largest)}, and {human_bytes(free)} are "
            "free: end what uses the memory, give a smaller --batch, or use a larger machine"
        )
    return sum(need.total_bytes for need in needs) <= free
