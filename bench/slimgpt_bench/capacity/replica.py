"""What one replica holds: weights, KV cache, sequences at once. The arithmetic of `slimgpt serve`.

Exact per layer from the shape; the activations are what the server allows for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from slimgpt.checkpoint.onnx_export import read_onnx
from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.resources import human_bytes
from slimgpt.shape import ModelShape
from slimgpt_bench.accelerators import GIB, HERE, Accelerator
from slimgpt_bench.artefact import Artefact
from slimgpt_bench.capacity.number import Number
from slimgpt_bench.roofline.products import Numbers
from slimgpt_serve.openai_api.room import SHARE, find_room
from slimgpt_serve.parallel import possible_degrees, require_divisible
from slimgpt_serve.preflight.memory import (
    VALUE_BYTES,
    Footprint,
    footprint,
    rank_shape,
    step_sizes,
    whole_blocks,
)

ONNX_SEQUENCES = 4
"""``--max-concurrency`` of the ONNX server where nobody gives another."""

_MOST_CPU_KV = 4 * GIB
"""What the launcher gives vLLM's KV cache on a CPU at most, where nobody gives another size."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a replica is to be served.

    Attributes:
        utilization: share of each accelerator's memory, in (0, 1].
        degree: of tensor parallelism.
        sequences: most at once; None is the server's default.
        dtype: to compute in; ``auto`` is the stored one.
    """

    utilization: float = 0.9
    degree: int = 1
    sequences: int | None = None
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class Replica:
    """One server of the artefact.

    Attributes:
        engine: ``vllm`` or ``onnx``.
        accelerator: each of its devices.
        degree: devices, by tensor parallelism.
        shape: the part of one device.
        numbers: bytes of its values.
        dtype: that it computes in.
        held: by one device.
        kv_bytes: of the KV cache of one device.
        kv_tokens: that it holds.
        sequences: most at once.
        step_tokens: most of one step; prompts share it, and the reading of the weights.
        context: most tokens of a prompt and its answer; None where the config does not say.
        weights_of_files: the weights are as large as their files, and not as their widths tell.
        cache_from: what the size of the KV cache follows from, for people.
    """

    engine: Literal["vllm", "onnx"]
    accelerator: Accelerator
    degree: int
    shape: ModelShape
    numbers: Numbers
    dtype: str
    held: Footprint
    kv_bytes: int
    kv_tokens: int
    sequences: int
    step_tokens: int
    context: int | None
    weights_of_files: bool
    cache_from: str

    def to_json(self) -> dict[str, Any]:
        of_each = f", on each of {self.degree} accelerators" if self.degree > 1 else ""
        fixed = f"exact: summed over the layers{of_each}"
        weights = (self.held.weight_bytes, "B")
        allowed = "what slimgpt serve allows for"
        if self.engine == "onnx":
            allowed += ": what --utilization leaves"
        numbers: Mapping[str, Number] = {
            "weight_bytes": Number(*weights, "measured", f"size of the files{of_each}")
            if self.weights_of_files
            else Number(*weights, "modelled", fixed),
            "activation_bytes": Number(self.held.activation_bytes, "B", "modelled", allowed),
            "kv_bytes_per_token": Number(self.held.kv_bytes_per_token, "B", "modelled", fixed),
            "kv_bytes": Number(self.kv_bytes, "B", "modelled", self.cache_from),
            "kv_tokens": Number(self.kv_tokens, "tokens", "modelled", self.cache_from),
            "max_sequences": Number(
                self.sequences, "sequences", "assumed", "--max-sequences, or the server's default"
            ),
        }
        told = {name: number.to_json() for name, number in numbers.items()}
        return {
            "engine": self.engine,
            "tensor_parallel": self.degree,
            "dtype": self.dtype,
            "context": self.context,
            **told,
        }


def replica_of(artefact: Artefact, accelerator: Accelerator, wishes: Wishes) -> Replica:
    """What a replica holds.

    Raises:
        UsageError: the model can't be split so, or an export in another type.
        EnvironmentProblem: it does not fit the accelerator.
    """
    if artefact.form == "onnx":
        return _onnx(artefact, accelerator, wishes)
    dtype = artefact.cache_dtype if wishes.dtype == "auto" else wishes.dtype
    require_divisible(artefact.shape.layers, wishes.degree, "--tensor-parallel")
    sequences = wishes.sequences or _steps(accelerator, wishes.degree)[1]
    held = _held(artefact, accelerator, wishes.degree, dtype, sequences)
    room = _room(accelerator, wishes.utilization, held)
    tokens = whole_blocks(max(0, room), held.kv_bytes_per_token, accelerator.platform)
    if tokens < 1:
        raise _too_large(artefact, accelerator, wishes, dtype, held)
    weight = artefact.weight_bytes / artefact.shape.parameters
    quantised = artefact.dtype == "quantised"
    value = VALUE_BYTES[dtype]
    return Replica(
        engine="vllm",
        accelerator=accelerator,
        degree=wishes.degree,
        shape=rank_shape(artefact.shape, wishes.degree),
        numbers=Numbers(weight if quantised else value, value, dtype),
        dtype=dtype,
        held=held,
        kv_bytes=room,
        kv_tokens=tokens,
        sequences=sequences,
        step_tokens=_steps(accelerator, wishes.degree)[0],
        context=artefact.context_length,
        weights_of_files=quantised,
        cache_from=_cache_from(accelerator, room),
    )


def _cache_from(accelerator: Accelerator, room: int) -> str:
    if accelerator.platform == "cpu" and room == _MOST_CPU_KV:
        return "what slimgpt serve gives vLLM on a CPU"
    owner = "this machine" if accelerator.name == HERE else accelerator.name
    return f"--utilization of {owner}'s memory, less weights and activations"


def _steps(accelerator: Accelerator, degree: int) -> tuple[int, int]:
    return step_sizes(accelerator.platform, accelerator.memory_bytes, accelerator.name, degree)


def _held(
    artefact: Artefact, accelerator: Accelerator, degree: int, dtype: str, sequences: int
) -> Footprint:
    value = VALUE_BYTES[dtype]
    return footprint(
        artefact.shape,
        degree=degree,
        platform=accelerator.platform,
        weight_bytes_per_value=value,
        kv_bytes_per_value=value,
        step_tokens=_steps(accelerator, degree)[0],
        step_sequences=sequences,
        packed_bytes=artefact.weight_bytes if artefact.dtype == "quantised" else None,
    )


def _room(accelerator: Accelerator, utilization: float, held: Footprint) -> int:
    """Bytes of KV cache on each device."""
    taken = int(accelerator.memory_bytes * utilization)
    left = taken - held.weight_bytes - held.activation_bytes
    return min(left, _MOST_CPU_KV) if accelerator.platform == "cpu" else left


def _too_large(
    artefact: Artefact, accelerator: Accelerator, wishes: Wishes, dtype: str, held: Footprint
) -> EnvironmentProblem:
    def fits(degree: int) -> bool:
        sequences = wishes.sequences or _steps(accelerator, degree)[1]
        other = _held(artefact, accelerator, degree, dtype, sequences)
        return _room(accelerator, wishes.utilization, other) >= other.kv_bytes_per_token

    degrees = [n for n in possible_degrees(artefact.shape.layers) if n > wishes.degree]
    enough = next((n for n in degrees if accelerator.platform == "cuda" and fits(n)), None)
    way = (
        f"give --tensor-parallel {enough}, or" if enough else "prune it more, quantise it, or give"
    )
    return EnvironmentProblem(
        f"{artefact.name} needs {human_bytes(held.weight_bytes)} of weights and about "
        f"{human_bytes(held.activation_bytes)} of activations, and --utilization "
        f"{wishes.utilization:g} of {accelerator.name} is "
        f"{human_bytes(accelerator.memory_bytes * wishes.utilization)}, which leaves no KV cache: "
        f"{way} a larger --accelerator"
    )


def _onnx(artefact: Artefact, accelerator: Accelerator, wishes: Wishes) -> Replica:
    """An export's buffers are allocated for every slot at the full context."""
    if wishes.degree != 1:
        raise UsageError(
            f"--tensor-parallel {wishes.degree}: {artefact.name} is an ONNX export, which runs on "
            "one device: leave it out"
        )
    if wishes.dtype not in ("auto", artefact.cache_dtype):
        raise UsageError(
            f"--dtype {wishes.dtype}: {artefact.name} is an ONNX export in {artefact.cache_dtype}: "
            "leave it out"
        )
    memory = int(accelerator.memory_bytes * wishes.utilization / SHARE)
    sequences = wishes.sequences or ONNX_SEQUENCES
    room = find_room(read_onnx(artefact.directory), None, sequences, memory)
    value = VALUE_BYTES[artefact.cache_dtype]
    weight = artefact.weight_bytes / artefact.shape.parameters
    return Replica(
        engine="onnx",
        accelerator=accelerator,
        degree=1,
        shape=artefact.shape,
        numbers=Numbers(weight, value, artefact.cache_dtype),
        dtype=artefact.cache_dtype,
        held=Footprint(artefact.weight_bytes, artefact.kv_bytes_per_token, 0),
        kv_bytes=room.kv_bytes,
        kv_tokens=room.kv_tokens,
        sequences=sequences,
        step_tokens=1,  # a prompt at a time
        context=room.capacity,
        weights_of_files=True,
        cache_from=f"{sequences} slots of {room.capacity:,} tokens, allocated when it starts",
    )
