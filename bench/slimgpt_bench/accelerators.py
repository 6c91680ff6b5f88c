"""Accelerators by name: what their vendors say of memory, bandwidth and matrix products.

Speeds are the vendor's peaks, without sparsity: a floor for time, never a forecast. Memory is what
a CUDA process sees, which is less than the name says: the driver and ECC keep some.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slimgpt.errors import EnvironmentProblem, UsageError

GIB = 2**30
TERA = 1e12
HERE = "here"
_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device, or one machine where the CPU computes.

    Attributes:
        name: as the user writes it.
        memory_bytes: that processes may use.
        bytes_per_s: from memory.
        flops_per_s: of dense matrix products, by the type of their factors; an addition and a
            multiplication are two.
        sms: streaming multiprocessors; None where there is no such thing, or nobody says.
        tile: values that matrix widths should be a multiple of.
        source: where the numbers are from, for people.
        platform: ``cuda`` or ``cpu``, as vLLM names them.
        measured: the speeds were measured here, and are no peaks.
    """

    name: str
    memory_bytes: int
    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    sms: int | None
    tile: int
    source: str
    platform: Literal["cpu", "cuda"] = "cuda"
    measured: bool = False

    def flops(self, dtype: str) -> float:
        """FLOP/s in a type; in one that is not listed, those of float32."""
        return self.flops_per_s.get(dtype, self.flops_per_s["float32"])

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "memory_bytes": self.memory_bytes,
            "bytes_per_s": self.bytes_per_s,
            "flops_per_s": dict(self.flops_per_s),
            "sms": self.sms,
            "tile": self.tile,
            "platform": self.platform,
            "measured": self.measured,
            "source": self.source,
        }


def _nvidia(
    name: str,
    memory_gib: float,
    terabytes_per_s: float,
    teraflops: tuple[float, float, float | None],
    sms: int,
    source: str,
    tile: int = 64,
) -> Accelerator:
    """From the units of datasheets; ``teraflops`` of float32, of 16 bits, and of float8.

    A tile is 128 bytes of 16-bit values: NVIDIA's matrix multiplication guide asks for that from
    the A100 on.
    """
    single, half, eighth = teraflops
    speeds = {"float32": single, "float16": half, "bfloat16": half}
    speeds |= {"float8": eighth} if eighth else {}
    return Accelerator(
        name,
        int(memory_gib * GIB),
        terabytes_per_s * TERA,
        {dtype: value * TERA for dtype, value in speeds.items()},
        sms,
        tile,
        f"{source}; dense; memory as CUDA tells it",
    )


_HOPPER = (67.0, 989.5, 1979.0)
_AMPERE = (19.5, 312.0, None)
_KNOWN = {
    x.name: x
    for x in (
        _nvidia("h200", 139.7, 4.8, _HOPPER, 132, "NVIDIA H200 datasheet, SXM"),
        _nvidia("h100-sxm", 79.1, 3.35, _HOPPER, 132, "NVIDIA H100 datasheet, SXM"),
        _nvidia("h100-pcie", 79.1, 2.0, (51.0, 756.5, 1513.0), 114, "NVIDIA H100 datasheet, PCIe"),
        _nvidia("h100-nvl", 93.0, 3.9, (60.0, 835.5, 1671.0), 132, "NVIDIA H100 datasheet, NVL"),
        _nvidia("a100-80gb", 79.1, 2.039, _AMPERE, 108, "NVIDIA A100 datasheet, SXM 80 GB"),
        _nvidia("a100-80gb-pcie", 79.1, 1.935, _AMPERE, 108, "NVIDIA A100 datasheet, PCIe 80 GB"),
        _nvidia("a100-40gb", 39.4, 1.555, _AMPERE, 108, "NVIDIA A100 datasheet, 40 GB"),
        _nvidia("l40s", 44.4, 0.864, (91.6, 362.0, 733.0), 142, "NVIDIA L40S datasheet"),
        _nvidia("l4", 22.0, 0.3, (30.3, 121.0, 242.5), 58, "NVIDIA L4 datasheet"),
        _nvidia("a10g", 21.9, 0.6, (35.0, 70.0, None), 80, "NVIDIA A10G datasheet (AWS G5)"),
        _nvidia(
            "b200", 178.3, 8.0, (80.0, 2250.0, 4500.0), 148, "NVIDIA HGX B200 datasheet", tile=128
        ),
    )
}
_ALIASES = {"h100": "h100-sxm", "a100": "a100-80gb"}


def names() -> list[str]:
    """What :func:`find` knows."""
    return [*_KNOWN, *_ALIASES, HERE]


def find(name: str, *, device: str = "auto") -> Accelerator:
    """The accelerator of ``--accelerator``.

    Args:
        name: one of :func:`names`, in any case; ``here`` is this machine, which is measured; or a
            YAML file.
        device: ``auto``, ``cpu`` or ``cuda[:i]``; what ``here`` means.

    Raises:
        UsageError: another word, or a file that is wrong.
        EnvironmentProblem: ``here`` on a GPU that is not there.
    """
    wanted = name.strip().lower().replace("_", "-")
    if wanted == HERE:
        return _here(device)
    if wanted.endswith(_ENDINGS):
        from slimgpt_bench.capacity.accelerator_file import read_accelerator

        return read_accelerator(Path(name))
    found = _KNOWN.get(_ALIASES.get(wanted, wanted))
    if not found:
        raise UsageError(
            f"--accelerator {name}: give one of {', '.join(names())}, or a YAML file with its "
            "memory_gib, terabytes_per_s and teraflops"
        )
    return found


def _here(device: str) -> Accelerator:
    """This machine, measured in a moment."""
    from slimgpt.machine_speed import measure_speed
    from slimgpt.resources import resolve_device
    from slimgpt_serve.preflight.machine import gpus

    used = "cpu" if device == "cpu" else str(resolve_device(device))
    if used == "cpu":
        speed = measure_speed("cpu")
        said = f"measured on this machine's {os.cpu_count()} CPUs, in float32"
        flops = {"float32": speed.flops_per_s}
        return Accelerator(
            HERE,
            _machine_bytes(),
            speed.bytes_per_s,
            flops,
            None,
            _vector_values(),
            said,
            platform="cpu",
            measured=True,
        )
    index = int(used.partition(":")[2] or 0)
    found = gpus(os.environ)[index]
    half, single = (measure_speed(used, size) for size in (2, 4))
    flops = {
        "float32": single.flops_per_s,
        "float16": half.flops_per_s,
        "bfloat16": half.flops_per_s,
    }
    said = f"measured on this machine's {found.name}"
    return Accelerator(
        HERE,
        found.total_bytes,
        half.bytes_per_s,
        flops,
        _multiprocessors(index),
        64,
        said,
        measured=True,
    )


def _multiprocessors(index: int) -> int:
    import torch

    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def _machine_bytes() -> int:
    """Memory of the machine, or of the container."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        raise EnvironmentProblem(
            "--accelerator here: this system does not say how much memory it has: give a YAML file "
            "with memory_gib, terabytes_per_s and teraflops"
        ) from None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdecimal() else whole


def _vector_values() -> int:
    """float32 values of one vector register."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return 8
    return 16 if "avx512f" in flags else 8
