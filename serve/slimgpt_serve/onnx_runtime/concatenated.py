"""Running a portable export: standard operators, and a new cache out of every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimgpt.errors import UsageError
from slimgpt_serve.onnx_runtime.kv_cache import ELEMENTS, STORAGE, as_float32
from slimgpt_serve.onnx_runtime.runner import (
    PREFILL_CHUNK,
    Logits,
    checked_ids,
    one,
    require_capacity,
    require_room,
)
from slimgpt_serve.onnx_runtime.session import OnnxSession


class ConcatenatedRunner:
    """One sequence on a portable export, with the methods of :class:`Runner`.

    Every run copies the cache to append to it; the default export does without.

    Attributes:
        session: that runs it.
        capacity: most tokens of the sequence, prompt and answer together.
        slots: 1.
        vocabulary: width of the logits.
        context_length: most tokens that the model was made for.
        kv_bytes: memory of keys and values when the sequence is full.
    """

    slots = 1

    def __init__(self, session: OnnxSession, capacity: int) -> None:
        """Begins with an empty cache."""
        self.session, self.capacity = session, capacity
        self.vocabulary = session.artefact.vocabulary
        self.context_length = session.artefact.context_length
        require_capacity(capacity, self.context_length)
        self.kv_bytes = 2 * session.artefact.kv_bytes(capacity, 1)  # the old one and the new one
        self._names = [
            f"{layer}.{kind}"
            for layer in range(len(session.artefact.kv_heads))
            for kind in ("key", "value")
        ]
        self._held = 0
        self._caches: list[Any] = []
        self._forget()

    def prefill(self, slot: int, tokens: Sequence[int], past: int = 0) -> Logits:
        """Reads tokens behind the ``past`` that is kept: all of it or nothing.

        Returns:
            Logits (vocabulary,) after the last of them.

        Raises:
            UsageError: there are none, too many, or one that the model does not know.
            BadLogits: NaN or infinite values.
        """
        require_room(past, len(tokens), self.capacity)
        ids = checked_ids(tokens, self.vocabulary)
        if past == 0:
            self._forget()
        if slot or past != self._held:
            raise UsageError(
                f"a portable export runs one sequence from its beginning: {past} tokens of slot "
                f"{slot} can't be gone on from"
            )
        for start in range(0, len(ids), PREFILL_CHUNK):
            logits = self._run(ids[None, start : start + PREFILL_CHUNK])
        return one(logits)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Logits:
        """Reads one token; logits (1, vocabulary)."""
        if len(tokens) != 1:
            raise UsageError(f"a portable export runs one sequence at a time, not {len(tokens)}")
        return self.prefill(0, tokens, lengths[0])[None]

    def move(self, source: int, target: int, length: int) -> None:
        """Nothing: there is one slot."""

    def _forget(self) -> None:
        artefact = self.session.artefact
        self._held = 0
        self._caches = [
            self.session.empty((1, heads, 0, artefact.head_dim), ELEMENTS[artefact.dtype])
            for heads in artefact.kv_heads
            for _ in ("key", "value")
        ]

    def _run(self, ids: NDArray[np.int64]) -> Logits:
        count = ids.shape[1]
        total = self._held + count
        binding = self.session.binding()
        arrays = {
            "input_ids": ids,
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self._held, total)[None],
        }
        for name, array in arrays.items():
            if name in self.session.inputs:
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
        if self.session.keeps_logits:
            binding.bind_ortvalue_input("logits_to_keep", self.session.value(np.array([1])))
        for name, cache in zip(self._names, self._caches, strict=True):
            binding.bind_ortvalue_input(f"past_key_values.{name}", cache)
            binding.bind_output(f"present.{name}", self.session.device, self.session.index)
        artefact = self.session.artefact
        kept = 1 if self.session.keeps_logits else count
        logits = np.empty((1, kept, artefact.vocabulary), STORAGE[artefact.dtype])
        where = ELEMENTS[artefact.dtype], logits.shape, logits.ctypes.data
        binding.bind_output("logits", "cpu", 0, *where)
        self.session.run(binding)
        # In the order in which they were bound, the logits last.
        self._caches = binding.get_outputs()[:-1]
        self._held = total
        return as_float32(logits[:, -1], artefact.dtype)
