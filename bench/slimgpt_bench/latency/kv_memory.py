"""Entries of a memory document: ``kv``, and what a CPU has to say of a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NO_DEVICE: Mapping[str, Any] = {
    "total_bytes": None,
    "used_bytes": None,
    "reason": "a CPU has no memory of its own: see process",
}

MODELLED = "modelled: (free memory - weights) / bytes a token"


def kv_document(
    *,
    exact: int,
    measured: float | None,
    free_bytes: int | None,
    weight_bytes: int | None,
    dtype: str,
) -> dict[str, Any]:
    """For an engine that takes memory as it needs it: its capacity is arithmetic.

    Args:
        exact: bytes of a token, from the widths of every layer.
        measured: bytes of a token that the engine's cache took.
        free_bytes: on the device before the model was loaded.
        weight_bytes: that it took then.
        dtype: of the cache.
    """
    capacity = None
    if exact and free_bytes is not None and weight_bytes is not None:
        capacity = max(0, free_bytes - weight_bytes) // exact
    return {
        "dtype": dtype,
        "bytes_per_token": exact,
        "measured_bytes_per_token": measured,
        "token_capacity": capacity,
        "token_capacity_source": MODELLED,
    }
