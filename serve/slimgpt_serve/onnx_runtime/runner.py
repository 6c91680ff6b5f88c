"""Running an export on several sequences at once, over KV buffers that stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimgpt.errors import IntegrityError, UsageError
from slimgpt_serve.onnx_runtime.kv_cache import ELEMENTS, STORAGE, KvCache, as_float32
from slimgpt_serve.onnx_runtime.session import OnnxSession

PREFILL_CHUNK = 512
"""Tokens of a prompt in one run: more make it no faster, and activations and attention scores grow
with them."""
_INT64 = 7  # onnx.TensorProto.INT64

Logits = NDArray[np.float32]


class BadLogits(IntegrityError):
    """A run gave logits that are NaN or infinite.

    Attributes:
        rows: of the batch that they belong to.
        logits: of all rows (rows, vocabulary): those of others are good.
    """

    def __init__(self, rows: tuple[int, ...], logits: Logits) -> None:
        super().__init__(
            "the model's logits are no numbers (NaN or infinite): the export is damaged, or its "
            "precision is too low; export it again with --precision fp32"
        )
        self.rows, self.logits = rows, logits


class Runner:
    """An export with room for several sequences; to be used by one thread at a time.

    Attributes:
        session: that runs it.
        capacity: most tokens of a sequence, prompt and answer together.
        slots: sequences that there is room for.
        vocabulary: width of the logits.
        context_length: most tokens that the model was made for.
        kv_bytes: memory of all keys and values.
    """

    def __init__(self, session: OnnxSession, capacity: int, slots: int) -> None:
        """Allocates the KV buffers.

        Raises:
            UsageError: the capacity is beyond the model's context.
            EnvironmentProblem: the memory is not enough.
        """
        self.session, self.capacity, self.slots = session, capacity, slots
        self.vocabulary = session.artefact.vocabulary
        self.context_length = session.artefact.context_length
        require_capacity(capacity, self.context_length)
        self.cache = KvCache(session, capacity, slots)
        self.kv_bytes = self.cache.size_bytes
        self._bound: dict[tuple[int, int], _Bound] = {}
        self._ones = np.ones((1, capacity), np.int64)

    def prefill(self, slot: int, tokens: Sequence[int], past: int = 0) -> Logits:
        """Reads tokens into a slot behind the ``past`` that it keeps.

        Returns:
            Logits (vocabulary,) after the last of them.

        Raises:
            UsageError: there are none, too many, or one that the model does not know.
            BadLogits: NaN or infinite values.
        """
        require_room(past, len(tokens), self.capacity)
        ids = checked_ids(tokens, self.vocabulary)
        bound = self._rows(slot, 1)
        for start in range(0, len(ids), PREFILL_CHUNK):
            chunk = ids[None, start : start + PREFILL_CHUNK]
            logits = bound.run(chunk, self._ones[:, : past + start + chunk.shape[1]])
        return one(logits)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Logits:
        """Reads one token for each of slots 0 to n - 1.

        Args:
            tokens: one a slot.
            lengths: tokens that each slot holds already.

        Returns:
            Logits (n, vocabulary).

        Raises:
            UsageError: a slot is full, or a token is unknown.
            BadLogits: NaN or infinite values.
        """
        held = np.asarray(lengths)
        require_room(int(held.max()), 1, self.capacity)
        ids = checked_ids(tokens, self.vocabulary)[:, None]
        total = int(held.max()) + 1
        if len(held) == 1:
            mask = self._ones[:, :total]
        else:  # right padding: each row's own tokens, then nothing
            mask = (np.arange(total) <= held[:, None]).astype(np.int64)
        return finite(self._rows(0, len(held)).run(ids, mask))

    def move(self, source: int, target: int, length: int) -> None:
        """Copies a slot's first ``length`` tokens to another slot."""
        self.cache.move(source, target, length)

    def _rows(self, first: int, rows: int) -> _Bound:
        """What is bound for these slots; made at their first run."""
        if (first, rows) not in self._bound:
            self._bound[first, rows] = _Bound(self.session, self.cache, first, rows)
        return self._bound[first, rows]


class _Bound:
    """The graph with some slots bound: only ids and mask change from run to run."""

    def __init__(self, session: OnnxSession, cache: KvCache, first: int, rows: int) -> None:
        self._session, self._rows = session, rows
        self._binding = session.binding()
        cache.bind(self._binding, first, rows)
        if session.keeps_logits:
            self._binding.bind_ortvalue_input("logits_to_keep", session.value(np.array([1])))
        self._logits: NDArray[Any] | None = None

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Logits:
        """Logits (rows, vocabulary) after the last of ids (rows, tokens)."""
        self._bind("input_ids", ids)
        self._bind("attention_mask", mask)
        logits = self._output(1 if self._session.keeps_logits else ids.shape[1])
        self._session.run(self._binding)
        return as_float32(logits[:, -1], self._session.artefact.dtype)

    def _bind(self, name: str, array: NDArray[np.int64]) -> None:
        if name in self._session.inputs:  # without attention there is no mask
            where = array.shape, array.ctypes.data
            self._binding.bind_input(name, "cpu", 0, _INT64, *where)

    def _output(self, kept: int) -> NDArray[Any]:
        """Where the logits go; bound anew only if their number changes."""
        if self._logits is None or self._logits.shape[1] != kept:
            artefact = self._session.artefact
            shape = self._rows, kept, artefact.vocabulary
            self._logits = np.empty(shape, STORAGE[artefact.dtype])
            where = ELEMENTS[artefact.dtype], shape, self._logits.ctypes.data
            self._binding.bind_output("logits", "cpu", 0, *where)
        return self._logits


def require_capacity(capacity: int, context_length: int) -> None:
    """Refuses a capacity that the graph has no positions for."""
    if not 1 <= capacity <= context_length:
        raise UsageError(
            f"a capacity of {capacity} tokens: give 1 to {context_length}, the model's context"
        )


def require_room(past: int, new: int, capacity: int) -> None:
    """Refuses no tokens, and more than a slot holds."""
    if new < 1:
        raise UsageError("there are no tokens to read: give at least one")
    if past + new > capacity:
        raise UsageError(
            f"{new} tokens after {past} are beyond the capacity of {capacity} tokens: give a "
            "shorter prompt, or make the capacity larger"
        )


def checked_ids(tokens: Sequence[int], vocabulary: int) -> NDArray[np.int64]:
    """Ids as an array.

    Raises:
        UsageError: the model does not know one of them.
    """
    ids = np.asarray(tokens, np.int64)
    if ids.min() < 0 or ids.max() >= vocabulary:
        wrong = int(ids.min() if ids.min() < 0 else ids.max())
        raise UsageError(f"token id {wrong} is beyond the model's vocabulary of {vocabulary}")
    return ids


def one(logits: Logits) -> Logits:
    """Logits (vocabulary,) of a batch of one, if all are numbers."""
    row: Logits = finite(logits)[0]
    return row


def finite(logits: Logits) -> Logits:
    """The logits (rows, vocabulary), if all are numbers.

    Raises:
        BadLogits: naming the rows.
    """
    good = np.isfinite(logits).all(axis=1)
    if not good.all():
        raise BadLogits(tuple(int(row) for row in np.flatnonzero(~good)), logits)
    return logits
