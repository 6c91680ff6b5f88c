"""Keys and values of all layers, allocated once: past and present of every run are one buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from slimgpt.errors import EnvironmentProblem
from slimgpt.resources import human_bytes
from slimgpt_serve.onnx_runtime.artefact import ELEMENT_BYTES
from slimgpt_serve.onnx_runtime.graph_file import BYTE, copying_graph
from slimgpt_serve.onnx_runtime.session import Memory, OnnxSession
from slimgpt_serve.preflight.machine import free_memory_bytes

ELEMENTS = {"float32": 1, "float16": 10, "bfloat16": 16}
"""Of onnx.TensorProto.DataType."""


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Keys or values of one layer, (slots, KV heads, capacity, head size).

    Attributes:
        name: after ``past_key_values.`` and ``present.``.
        heads: of keys and values.
        slot_bytes: of one slot.
        memory: that holds it.
    """

    name: str
    heads: int
    slot_bytes: int
    memory: Memory


class KvCache:
    """Room for ``slots`` sequences of up to ``capacity`` tokens.

    Attributes:
        capacity: tokens a slot.
        slots: how many.
        size_bytes: of all buffers.
    """

    def __init__(self, session: OnnxSession, capacity: int, slots: int) -> None:
        """Allocates all of it, zeroed.

        Raises:
            EnvironmentProblem: the memory is not enough.
        """
        artefact = session.artefact
        self.capacity, self.slots = capacity, slots
        self.size_bytes = artefact.kv_bytes(capacity, slots)
        self._session = session
        self._head_dim = artefact.head_dim
        self._element = ELEMENTS[artefact.dtype]
        self._value_bytes = ELEMENT_BYTES[artefact.dtype]
        self._copier: OnnxSession | None = None
        self._require_memory()
        self._buffers = [
            self._buffer(f"{layer}.{kind}", heads)
            for layer, heads in enumerate(artefact.kv_heads)
            for kind in ("key", "value")
        ]

    @property
    def pointers(self) -> list[int]:
        """Addresses of the buffers; they stay what they are."""
        return [buffer.memory.pointer for buffer in self._buffers]

    def bind(self, binding: Any, first: int, rows: int) -> None:
        """Binds slots ``first`` to ``first + rows - 1`` as past and as present of a batch."""
        device = self._session.device, self._session.index
        for buffer in self._buffers:
            shape = rows, buffer.heads, self.capacity, self._head_dim
            what = self._element, shape, buffer.memory.pointer + first * buffer.slot_bytes
            binding.bind_input(f"past_key_values.{buffer.name}", *device, *what)
            binding.bind_output(f"present.{buffer.name}", *device, *what)

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first ``length`` tokens of one slot to another."""
        for buffer in self._buffers:
            array = buffer.memory.array
            if array is None:
                self._copy_on_device(buffer, source, target)
                continue
            shape = self.slots, buffer.heads, self.capacity, self._head_dim * self._value_bytes
            view = array.reshape(shape)
            view[target, :, :length] = view[source, :, :length]

    def _copy_on_device(self, buffer: _Buffer, source: int, target: int) -> None:
        """Copies a whole slot: ONNX Runtime copies nothing smaller but through a graph."""
        if self._copier is None:
            self._copier = self._session.copier(copying_graph())
        binding, size = self._copier.binding(), [buffer.slot_bytes]
        device = self._session.device, self._session.index
        start = buffer.memory.pointer
        binding.bind_input("source", *device, BYTE, size, start + source * buffer.slot_bytes)
        binding.bind_output("target", *device, BYTE, size, start + target * buffer.slot_bytes)
        self._copier.run(binding)

    def _buffer(self, name: str, heads: int) -> _Buffer:
        size = heads * self.capacity * self._head_dim * self._value_bytes
        return _Buffer(name, heads, size, self._session.memory(size * self.slots))

    def _require_memory(self) -> None:
        free = free_memory_bytes() if self._session.device == "cpu" else None
        if free is not None and free < self.size_bytes:
            raise EnvironmentProblem(
                f"keys and values of {self.slots} texts of {self.capacity} tokens need "
                f"{human_bytes(self.size_bytes)}, and {human_bytes(free)} of memory are free: ask "
                "for fewer or shorter texts (--max-new-tokens; --max-concurrency and "
                "--max-model-len where they are served)"
            )


def as_float32(values: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """A copy in float32 of values as a graph writes them; bfloat16 comes as its upper half."""
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


STORAGE: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
"""What numpy holds a number format in."""
