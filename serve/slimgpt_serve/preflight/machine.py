"""The memory that vLLM finds on this machine: of each GPU, or of the machine itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slimgpt.errors import EnvironmentProblem
from slimgpt.resources import available_memory_bytes

_ASK_GPUS = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps([[*torch.cuda.mem_get_info(i), torch.cuda.get_device_name(i)]
                  for i in range(count)]))
"""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU.

    Attributes:
        free_bytes: of its memory.
        total_bytes: of its memory.
        name: as the driver says.
    """

    free_bytes: int
    total_bytes: int
    name: str


def gpus(environ: Mapping[str, str]) -> list[Device]:
    """The GPUs that a process with this environment sees, asked in one that ends again.

    A process that asks CUDA keeps a context, which holds memory of each GPU.
    """
    asked = subprocess.run(
        [sys.executable, "-P", "-c", _ASK_GPUS],
        env=dict(environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise EnvironmentProblem(f"torch can't ask the GPUs for their memory: {last}")
    return [Device(*found) for found in json.loads(asked.stdout)]


def visible(device: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What narrows the GPUs that vLLM sees to the one of ``--device cuda:1``, or nothing."""
    number = device.partition(":")[2]
    if not number:
        return {}
    seen = environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else None
    if names is not None and int(number) >= len(names):
        raise EnvironmentProblem(
            f"--device {device}: CUDA_VISIBLE_DEVICES={seen} leaves {len(names)} GPUs"
        )
    return {"CUDA_VISIBLE_DEVICES": names[int(number)] if names else number}


def free_memory_bytes() -> int | None:
    """Memory that processes here may still take: of the machine, and of the container."""
    found = [x for x in (available_memory_bytes(), _container_bytes()) if x is not None]
    return min(found, default=None)


def _container_bytes(root: Path = _CGROUP) -> int | None:
    """What a control group's limit leaves; its page cache is given up when it is needed."""
    try:
        limit = (root / "memory.max").read_text("ascii").strip()
        used = int((root / "memory.current").read_text("ascii"))
        lines = (root / "memory.stat").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    if not limit.isdecimal():  # "max": no limit
        return None
    cache = sum(int(x.split()[1]) for x in lines if x.startswith("inactive_file "))
    return max(0, int(limit) - used + cache)


def cpu_binding(ranks: int) -> str | None:
    """``VLLM_CPU_OMP_THREADS_BIND``: the processors of each rank, where vLLM's own rule fails.

    vLLM gives each rank a memory node, and refuses more ranks than nodes.
    """
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
    if ranks == 1 or nodes >= ranks:
        return None
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < ranks:
        raise EnvironmentProblem(
            f"{ranks} processors are needed, and this process may use {len(processors)}: give a "
            "smaller --tensor-parallel, or fewer pipeline stages"
        )
    share = len(processors) // ranks
    parts = [processors[i * share : (i + 1) * share] for i in range(ranks)]
    return "|".join(",".join(map(str, part)) for part in parts)
