"""How many tokens the KV cache of a server gets: what was asked for, or what fits the memory.

Exact: the buffers are allocated once, for every slot at the full capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.resources import human_bytes
from slimgpt_serve.onnx_runtime.artefact import OnnxArtefact

SHARE = 0.9
"""Of the free memory that weights and KV cache may take: the rest is for activations and Python."""

_LEAST_CONTEXT = 2  # a token of a prompt, and one of an answer


@dataclass(frozen=True, slots=True)
class Room:
    """What a server holds.

    Attributes:
        artefact: that is served.
        capacity: most tokens of a prompt and its answer together.
        slots: answers that run at the same time.
        memory_bytes: that may be used; None where that is not known before it is tried.
        longest: capacity that fits this memory, and the model.
    """

    artefact: OnnxArtefact
    capacity: int
    slots: int
    memory_bytes: int | None
    longest: int

    @property
    def kv_tokens(self) -> int:
        return self.capacity * self.slots

    @property
    def kv_bytes(self) -> int:
        return self.artefact.kv_bytes(self.capacity, self.slots)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        if self.capacity < self.artefact.context_length and self.capacity == self.longest:
            return (
                f"the context is {self.capacity:,} tokens, the longest that fits the memory; the "
                f"model takes {self.artefact.context_length:,}",
            )
        return ()

    def to_json(self) -> dict[str, Any]:
        """The numbers, under the names that the vLLM route uses."""
        return {
            "precision": self.artefact.precision,
            "dtype": self.artefact.dtype,
            "weight_bytes": self.artefact.weight_bytes,
            "kv_cache_bytes": self.kv_bytes,
            "kv_bytes_per_token": self.artefact.kv_bytes(1, 1),
            "memory_bytes": self.memory_bytes,
            "kv_tokens": self.kv_tokens,
            "longest_context": self.longest,
            "context": self.capacity,
            "model_context": self.artefact.context_length,
            "concurrency": self.slots,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """A line for each number, with its unit."""
        memory, model = self.memory_bytes, self.artefact
        rows = [
            ("engine", "onnx: MODEL is an ONNX export"),
            ("weights", f"{human_bytes(model.weight_bytes)}, {model.precision}"),
            ("memory that may be used", "unknown" if memory is None else human_bytes(memory)),
            ("KV cache", human_bytes(self.kv_bytes)),
            ("KV cache of a token", human_bytes(model.kv_bytes(1, 1))),
            ("tokens in the KV cache", f"{self.kv_tokens:,}"),
            ("context served", f"{self.capacity:,} of the model's {model.context_length:,}"),
            ("texts of that length at once", str(self.slots)),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def find_room(
    artefact: OnnxArtefact, wanted: int | None, slots: int, free_bytes: int | None
) -> Room:
    """What is served: the capacity that was asked for, or the longest that fits.

    Args:
        artefact: to be served.
        wanted: ``--max-model-len``.
        slots: ``--max-concurrency``.
        free_bytes: memory that weights and cache have to fit; None where that is not known.

    Raises:
        UsageError: more than the model takes.
        EnvironmentProblem: more than fits the memory.
    """
    most = artefact.context_length
    if wanted is not None and not _LEAST_CONTEXT <= wanted <= most:
        raise UsageError(
            f"--max-model-len {wanted}: give {_LEAST_CONTEXT} to {most}, the context of MODEL"
        )
    memory = None if free_bytes is None else int(SHARE * free_bytes)
    longest = most if memory is None else _longest(artefact, slots, memory)
    if longest < (wanted or _LEAST_CONTEXT):
        raise _too_large(artefact, wanted or most, slots, memory or 0, longest)
    return Room(artefact, wanted or longest, slots, memory, longest)


def _longest(artefact: OnnxArtefact, slots: int, memory: int) -> int:
    left = memory - artefact.weight_bytes
    a_token = artefact.kv_bytes(1, slots)
    if left < 0:
        return 0
    return min(artefact.context_length, left // a_token if a_token else artefact.context_length)


def _too_large(
    artefact: OnnxArtefact, capacity: int, slots: int, memory: int, longest: int
) -> EnvironmentProblem:
    ways = [f"give a --max-model-len of at most {longest}"] if longest >= _LEAST_CONTEXT else []
    ways += ["give a smaller --max-concurrency"] if slots > 1 else []
    return EnvironmentProblem(
        f"the model needs {human_bytes(artefact.weight_bytes)} of weights and "
        f"{human_bytes(artefact.kv_bytes(capacity, slots))} of KV cache ({slots} texts of "
        f"{capacity} tokens), and {human_bytes(memory)} may be used: "
        f"{', '.join([*ways, 'or use a larger machine']) if ways else 'use a larger machine'}"
    )
