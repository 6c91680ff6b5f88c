"""A GPU's memory as its driver counts it, asked without a CUDA context in this process."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

_MIB = 2**20
_PATIENCE_S = 20


def gpu_memory(index: int, environ: Mapping[str, str]) -> dict[str, Any]:
    """Total and used bytes, of all processes together; None with the reason where it can't be told.

    Args:
        index: of the GPU among those that this process sees.
        environ: of this process.
    """
    seen = [x for x in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x]
    name = seen[index] if index < len(seen) else str(index)
    command = ["nvidia-smi", "-i", name, "--query-gpu=memory.total,memory.used"]
    try:
        said = subprocess.run(
            [*command, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_PATIENCE_S,
        ).stdout
        total, used = (int(x) * _MIB for x in said.split(","))
    except (OSError, subprocess.SubprocessError, ValueError) as reason:
        unknown = f"nvidia-smi does not tell: {type(reason).__name__}"
        return {"total_bytes": None, "used_bytes": None, "reason": unknown}
    return {"total_bytes": total, "used_bytes": used}
