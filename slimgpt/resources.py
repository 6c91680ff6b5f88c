"""What this machine has and what this process used: memory, disk, devices."""

from __future__ import annotations

import re
import resource
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slimgpt.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    import torch


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory since it started.

    Linux's getrusage hands a process the mark of the one that started it; /proc does not.
    """
    own = _proc_bytes("/proc/self/status", "VmHWM")
    if own is not None:
        return own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping, where the system says (Linux)."""
    return _proc_bytes("/proc/meminfo", "MemAvailable")


def _proc_bytes(path: str, key: str) -> int | None:
    """A kB field of a /proc file, in bytes."""
    try:
        lines = Path(path).read_text("ascii").splitlines()
    except OSError:
        return None
    values = [int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{key}:")]
    return values[0] if values else None


def require_disk(directory: Path, needed_bytes: int, purpose: str) -> None:
    """Refuses work that the disk can't hold.

    Raises:
        EnvironmentProblem: with what is needed and what is free.
    """
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise EnvironmentProblem(
            f"{purpose} needs {human_bytes(needed_bytes)} of disk at {existing}, where "
            f"{human_bytes(free)} are free: free some or choose an OUT on another disk"
        )


def require_memory(needed_bytes: int, purpose: str) -> None:
    """Refuses work that the memory can't hold, where the system says how much there is.

    Raises:
        EnvironmentProblem: with what is needed and what is free.
    """
    free = available_memory_bytes()
    if free is not None and free < needed_bytes:
        raise EnvironmentProblem(
            f"{purpose} needs {human_bytes(needed_bytes)} of memory, and {human_bytes(free)} are "
            "free: lower --samples or --sequence-length"
        )


def resolve_device(name: str) -> torch.device:
    """The device of ``--device auto|cpu|cuda[:i]``.

    Raises:
        UsageError: another word.
        EnvironmentProblem: a GPU that is not there.
    """
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise UsageError(f"--device {name}: give auto, cpu, cuda or cuda:0, cuda:1, ...")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= usable:
        raise EnvironmentProblem(
            f"--device {name}: torch sees {usable} GPUs; use --device cpu, or "
            "install the CUDA build of torch"
        )
    return torch.device(name)


def human_bytes(count: float) -> str:
    """A size in binary units, like ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
