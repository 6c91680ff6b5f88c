"""The hidden states of all calibration windows, in memory or in a mapped file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from slimgpt.prune.options import Placement
from slimgpt.resources import available_memory_bytes

_TOKENS_A_BATCH = 2048


class Activations:
    """Hidden states (samples, tokens, hidden), read and overwritten batch by batch."""

    def __init__(
        self, states: Float[Tensor, "samples tokens hidden"], device: torch.device
    ) -> None:
        self._states = states
        self._device = device
        self.batch_size = max(1, _TOKENS_A_BATCH // states.shape[1])

    @property
    def tokens(self) -> int:
        """Tokens in one window."""
        return self._states.shape[1]

    @property
    def batches(self) -> int:
        return -(-len(self._states) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[slice, Float[Tensor, "batch tokens hidden"]]]:
        """Batches on the compute device, each with its place."""
        for start in range(0, len(self._states), self.batch_size):
            place = slice(start, start + self.batch_size)
            yield place, self._states[place].to(self._device)

    def __setitem__(self, place: slice, states: Float[Tensor, "batch tokens hidden"]) -> None:
        self._states[place] = states.to(self._states.device)


def activation_bytes(samples: int, tokens: int, hidden: int, dtype: torch.dtype) -> int:
    """Size of all hidden states."""
    return samples * tokens * hidden * dtype.itemsize


def on_disk(placement: Placement, size_bytes: int) -> bool:
    """Whether activations go to a file: when asked to, or when half of the free memory is less."""
    if placement != "auto":
        return placement == "disk"
    available = available_memory_bytes()
    return available is not None and size_bytes > available // 2


def embed(
    windows: Tensor,
    embedding: Float[Tensor, "vocab hidden"],
    dtype: torch.dtype,
    device: torch.device,
    file: Path | None,
) -> Activations:
    """The inputs of layer 0.

    Args:
        windows: token ids (samples, tokens).
        embedding: stays on the CPU; only the rows that occur are read.
        dtype: what the hidden states are kept in.
        device: where batches are computed.
        file: where to map them, or None for memory.
    """
    shape = (*windows.shape, embedding.shape[1])
    if file is None:
        states = torch.empty(shape, dtype=dtype)
    else:
        count = windows.numel() * embedding.shape[1]
        # Disk that is promised but not there would end the process at the first write (SIGBUS).
        with file.open("wb") as place:
            os.posix_fallocate(place.fileno(), 0, count * dtype.itemsize)
        states = torch.from_file(str(file), shared=True, size=count, dtype=dtype).view(shape)
    for i, window in enumerate(windows):
        states[i] = embedding[window].to(dtype)
    return Activations(states, device)
