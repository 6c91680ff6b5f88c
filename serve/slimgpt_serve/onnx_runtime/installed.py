"""Which ONNX Runtime is installed, and how many cores it may use. Imports nothing of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path

from slimgpt.errors import EnvironmentProblem, missing_extra

FEATURE = "running an ONNX export"
_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)
"""All install into the one folder ``onnxruntime``, each over the files of the other."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def require_one_runtime() -> None:
    """Refuses none, and two that overwrite each other.

    Raises:
        EnvironmentProblem: with the commands that mend it.
    """
    found = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if not found:
        raise missing_extra(FEATURE, "onnx")
    if len(found) > 1:
        raise EnvironmentProblem(
            f"{' and '.join(found)} are installed over each other: {mending(found)}"
        )


def mending(found: list[str] | None = None) -> str:
    """The two commands that leave one whole ONNX Runtime."""
    names = found or [name for name in _DISTRIBUTIONS if _is_installed(name)]
    return (
        f"run pip uninstall -y {' '.join(names)}, then pip install 'slimgpt[onnx]' "
        "(or 'slimgpt[onnx-gpu]' for NVIDIA GPUs)"
    )


def threads_to_use(environ: Mapping[str, str]) -> int:
    """``OMP_NUM_THREADS``, or the cores that this process may keep busy."""
    asked = environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    allowed = len(os.sched_getaffinity(0))
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, quota))


def _quota(path: Path = _QUOTA) -> int | None:
    """Cores that a container's limit comes to; more threads would only be made to wait."""
    try:
        most, _, period = path.read_text("ascii").strip().partition(" ")
        return ceil(int(most) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no limit
        return None


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
