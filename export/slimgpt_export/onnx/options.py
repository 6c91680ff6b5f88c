"""What a user may ask of an ONNX export, on the command line or in a recipe. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.errors import UsageError
from slimgpt.resources import resolve_device
from slimgpt_export.onnx.precision import ACTIVATIONS, PARTS, Name, Part, Precision
from slimgpt_serve.onnx_runtime import session

PLAIN: dict[str, Any] = {
    "block_size": 32,
    "asymmetric": False,
    "accuracy_level": 4,
    "activations": "float32",
    "keep": "auto",
}
"""Options of quantised weights, and their defaults."""


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """How an export is made.

    Attributes:
        precision: of the weights; what it says of parts at higher precision is not looked at.
        keep: parts that stay at higher precision; None has them chosen by measured KL.
        text: what parity and KL are measured on; None is the text that comes with slimgpt.
        seed: of random tokens, for a model without a tokenizer.
        device: ``auto``, ``cpu`` or ``cuda[:i]``: where ONNX Runtime runs the check.
        portable: standard operators alone, through torch's exporter.
    """

    precision: Precision
    keep: tuple[Part, ...] | None = ()
    text: Path | None = None
    seed: int = 0
    device: str = "auto"
    portable: bool = False


def make_options(
    *,
    precision: Name,
    block_size: int = 32,
    asymmetric: bool = False,
    accuracy_level: int = 4,
    activations: str = "float32",
    keep: str = "auto",
    text: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    portable: bool = False,
) -> OnnxOptions:
    """Options as users spell them.

    Raises:
        UsageError: one means nothing to the precision, or ``keep`` names no part.
    """
    given = {
        "block_size": block_size,
        "asymmetric": asymmetric,
        "accuracy_level": accuracy_level,
        "activations": activations,
        "keep": keep,
    }
    chosen = Precision(
        precision,
        ACTIVATIONS.get(precision, activations),
        block_size,
        not asymmetric,
        accuracy_level,
    )
    if not chosen.quantized:
        for name, value in given.items():
            if value != PLAIN[name]:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is for --precision int8 and int4, not {precision}")
    return OnnxOptions(chosen, _parts(keep), text, seed, device, portable)


def require_device(options: OnnxOptions) -> None:
    """Refuses a device on which the check can't run.

    Raises:
        UsageError: it is no device, or ONNX Runtime has no attention of this precision there.
        EnvironmentProblem: it is not there.
    """
    device, precision = options.device, options.precision
    if not device.startswith("cuda"):
        resolve_device(device)
    elif precision.activations == "float32" and not options.portable:
        given, instead = f"--precision {precision.name}", "--precision fp16 or bf16"
        if precision.quantized:
            given, instead = f"{given} --activations float32", "--activations float16 or bfloat16"
        raise UsageError(
            f"--device {device}: {given} is for CPUs, as ONNX Runtime has no attention in float32 "
            f"for GPUs: give {instead}, or --device cpu"
        )
    else:
        in_place = not options.portable
        session.require_device(device, precision.activations, "the export", in_place=in_place)


def _parts(keep: str) -> tuple[Part, ...] | None:
    """None: to be chosen."""
    if keep == "auto":
        return None
    names = [] if keep == "none" else [name.strip() for name in keep.split(",")]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise UsageError(
            f"--keep {keep}: {unknown[0]!r} is no part: give auto, none, or some of "
            f"{', '.join(PARTS)}"
        )
    return tuple(name for name in PARTS if name in names)
