"""What a preflight found: the numbers of a server, for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slimgpt.resources import human_bytes
from slimgpt_serve.preflight.budget import Budget
from slimgpt_serve.preflight.memory import Footprint


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found.

    Attributes:
        platform: ``cpu`` or ``cuda``.
        degree: of tensor parallelism.
        stages: of pipeline parallelism.
        dtype: to compute in.
        held: by each device.
        budget: of each device.
        kv_tokens: that the cache holds.
        longest_context: that fits the cache, and the model.
        context: tokens that are served, as far as can be told.
        model_context: tokens that the model takes.
        architecture: class of ours that serves a stock checkpoint, where vLLM's can't.
        notes: what the user should know.
        vllm_decides: on the context, when it has measured the memory.
    """

    platform: str
    degree: int
    stages: int
    dtype: str
    held: Footprint
    budget: Budget
    kv_tokens: int
    longest_context: int
    context: int
    model_context: int
    architecture: str | None
    notes: tuple[str, ...]
    vllm_decides: bool = False

    @property
    def ranks(self) -> int:
        """Devices, or processes on a CPU."""
        return self.degree * self.stages

    @property
    def concurrency(self) -> float:
        """Texts of the full context that the cache holds at once."""
        return self.kv_tokens / self.context

    def to_json(self) -> dict[str, Any]:
        """The ``preflight`` entry of ``slimgpt serve --json``."""
        return {
            "platform": self.platform,
            "tensor_parallel": self.degree,
            "pipeline_parallel": self.stages,
            "dtype": self.dtype,
            "per_device": {
                "weight_bytes": self.held.weight_bytes,
                "activation_bytes_estimate": self.held.activation_bytes,
                "kv_cache_bytes": self.budget.kv_bytes,
                "kv_bytes_per_token": self.held.kv_bytes_per_token,
                "memory_bytes": self.budget.memory_bytes,
            },
            "kv_tokens": self.kv_tokens,
            "longest_context": self.longest_context,
            "context": self.context,
            "model_context": self.model_context,
            "concurrency_at_context": round(self.concurrency, 2),
            "served_by": self.architecture,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """A line for each number, with its unit."""
        memory = self.budget.memory_bytes
        rows = [
            ("device", f"{self.ranks} x {self.platform}, {self.dtype}"),
            ("memory that may be used", human_bytes(memory) if memory else "unknown"),
            ("weights", human_bytes(self.held.weight_bytes)),
            ("activations (estimate)", human_bytes(self.held.activation_bytes)),
            ("KV cache", human_bytes(self.budget.kv_bytes)),
            ("KV cache of a token", human_bytes(self.held.kv_bytes_per_token)),
            ("tokens in the KV cache", f"{self.kv_tokens:,}"),
            ("longest context that fits", f"{self.longest_context:,}"),
            ("context served", f"{self.context:,} of the model's {self.model_context:,}"),
            ("texts of that length at once", f"{self.concurrency:.1f}"),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
