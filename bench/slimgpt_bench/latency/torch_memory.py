"""What torch knows of memory: tensors, its allocator on a GPU, the GPU itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from slimgpt_bench.latency.kv_memory import NO_DEVICE
from slimgpt_serve.preflight.machine import free_memory_bytes

_GPU_ONLY = "torch counts what its allocator holds on GPUs alone"


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes behind tensors; what several share counts once."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


def module_bytes(module: torch.nn.Module) -> int:
    """Of parameters and buffers."""
    return storage_bytes([*module.parameters(), *module.buffers()])


def allocator(device: torch.device) -> dict[str, Any]:
    """Peaks of torch's allocator since the process started."""
    if device.type != "cuda":
        return {"peak_allocated_bytes": None, "peak_reserved_bytes": None, "reason": _GPU_ONLY}
    return {
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(device),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(device),
    }


def device_memory(device: torch.device) -> dict[str, Any]:
    """Of the GPU as its driver counts: contexts, libraries and other processes included."""
    if device.type != "cuda":
        return dict(NO_DEVICE)
    free, total = torch.cuda.mem_get_info(device)
    return {"total_bytes": total, "used_bytes": total - free}


def free_bytes(device: torch.device) -> int | None:
    """Memory that may still be taken on a device; None where nobody says."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
