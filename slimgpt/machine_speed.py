"""How fast this machine multiplies and moves numbers, measured in a moment.

Torch is imported for a GPU alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_PROBE_CPU, _PROBE_GPU = 1024, 8192
_COPIED_VALUES = 2**24
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """Of the device that computes.

    Attributes:
        device: ``cpu``, or ``cuda`` with or without a number.
        flops_per_s: of a matrix product in the type that is computed in.
        bytes_per_s: read and written, of a copy.
    """

    device: str
    flops_per_s: float
    bytes_per_s: float

    @property
    def is_gpu(self) -> bool:
        return self.device.startswith("cuda")


def measure_speed(device: str, value_bytes: int = 4) -> MachineSpeed:
    """Times one matrix product and one copy, the best of three.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:i``; a GPU must be there.
        value_bytes: of a value in the type that is computed in; only GPUs have a faster one.
    """
    if device.startswith("cuda"):
        return _gpu_speed(device, value_bytes)
    return MachineSpeed("cpu", _cpu_flops_per_s(), _cpu_bytes_per_s())


def _best_s(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def _cpu_flops_per_s() -> float:
    """Of a float32 product."""
    import numpy as np

    a = np.ones((_PROBE_CPU, _PROBE_CPU), dtype=np.float32)
    return 2 * _PROBE_CPU**3 / _best_s(lambda: a @ a)


def _cpu_bytes_per_s() -> float:
    """Of a copy by as many threads as torch would use."""
    import numpy as np

    threads = _threads()
    source = np.ones(_COPIED_VALUES, dtype=np.float32)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best_s(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))
    return (source.nbytes + target.nbytes) / seconds


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, int(asked) if asked.isdecimal() else usable or 1)


def _gpu_speed(device: str, value_bytes: int) -> MachineSpeed:
    import torch

    dtype = torch.float32 if value_bytes == 4 else torch.bfloat16
    a = torch.ones(_PROBE_GPU, _PROBE_GPU, dtype=dtype, device=device)
    b = torch.empty_like(a)

    def timed(work: Callable[[], object]) -> float:
        def whole() -> None:
            work()
            torch.cuda.synchronize(device)

        whole()  # the first call loads what it needs
        return _best_s(whole)

    flops = 2 * _PROBE_GPU**3 / timed(lambda: torch.matmul(a, a, out=b))
    return MachineSpeed(device, flops, 2 * a.nbytes / timed(lambda: b.copy_(a)))
