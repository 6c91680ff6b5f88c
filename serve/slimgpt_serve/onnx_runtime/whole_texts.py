"""Logits at many positions of whole texts, without a cache: what scores and comparisons need."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimgpt_serve.onnx_runtime.artefact import CONCATENATED
from slimgpt_serve.onnx_runtime.kv_cache import ELEMENTS, STORAGE, as_float32
from slimgpt_serve.onnx_runtime.session import OnnxSession


def logits_of_texts(
    session: OnnxSession, ids: NDArray[np.int64], keep: int | None = None
) -> NDArray[np.float32]:
    """Logits at the last positions of texts of one length.

    Args:
        session: of an export.
        ids: (texts, tokens).
        keep: positions; by default all.

    Returns:
        (texts, keep, vocabulary).
    """
    artefact, (texts, tokens) = session.artefact, ids.shape
    keep = keep or tokens
    made = keep if session.keeps_logits else tokens
    binding = session.binding()
    arrays: dict[str, NDArray[Any]] = {
        "input_ids": np.ascontiguousarray(ids),
        "attention_mask": np.ones((texts, tokens), np.int64),
        "position_ids": np.tile(np.arange(tokens), (texts, 1)),
    }
    for name, array in arrays.items():
        if name in session.inputs:
            binding.bind_cpu_input(name, array)
    if session.keeps_logits:
        binding.bind_ortvalue_input("logits_to_keep", session.value(np.array([made])))
    # Nothing is kept of the caches, and those in place need their room all the same.
    held = 0 if artefact.cache == CONCATENATED else tokens
    for layer, heads in enumerate(artefact.kv_heads):
        for kind in ("key", "value"):
            size = (texts, heads, held, artefact.head_dim)
            cache = session.empty(size, ELEMENTS[artefact.dtype])
            binding.bind_ortvalue_input(f"past_key_values.{layer}.{kind}", cache)
            if held:
                binding.bind_ortvalue_output(f"present.{layer}.{kind}", cache)
            else:
                binding.bind_output(f"present.{layer}.{kind}", session.device, session.index)
    logits = np.empty((texts, made, artefact.vocabulary), STORAGE[artefact.dtype])
    where = ELEMENTS[artefact.dtype], logits.shape, logits.ctypes.data
    binding.bind_output("logits", "cpu", 0, *where)
    session.run(binding)
    return as_float32(logits[:, -keep:], artefact.dtype)
