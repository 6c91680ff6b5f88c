"""What a training must not depend on: who launched the process, and the order of a GPU's sums."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_PREFIXES = ("ACCELERATE_", "FSDP_")
_LAUNCHERS = (
    "LOCAL_RANK",
    "RANK",
    "WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
)


@contextmanager
def one_process() -> Iterator[None]:
    """Hides the variables by which accelerate would join other processes, or change its ways.

    A cluster sets them for every job, and a user's ``accelerate config`` for every program.
    """
    hidden = {k: v for k, v in os.environ.items() if k.startswith(_PREFIXES) or k in _LAUNCHERS}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Lets a GPU add up in the same order every time; a CPU does so anyway.

    The backward pass of attention would otherwise add in the order in which its blocks end. Where
    torch has no such kernel it takes the usual one, and its warning is of no use to anyone.
    """
    if device.type == "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deterministic", UserWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=lenient)
