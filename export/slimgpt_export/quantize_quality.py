"""What a quantised checkpoint is worth: read back and scored beside the model it was made from."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.quantized import read_quantized
from slimgpt.checkpoint.reader import BYTES_PER_VALUE, ConfigOnly
from slimgpt.errors import EnvironmentProblem, GateMissed
from slimgpt.evaluate.perplexity import Quality, measure, perplexity
from slimgpt.loading import load_model
from slimgpt.progress import Progress
from slimgpt.release.manifest import rounded
from slimgpt.resources import available_memory_bytes, human_bytes, resolve_device
from slimgpt_export.quantize_windows import Data


def score(
    packed: Path, model: Path, data: Data, *, device: str, dtype: str, progress: Progress
) -> Quality:
    """Scores the held-out windows with both models, which are in memory together.

    Args:
        packed: the quantised checkpoint; it needs no manifest yet.
        model: what it was made from.
        data: has the windows.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: to compute in; ``auto`` is float32 on a CPU and the stored type on a GPU.
        progress: watches.
    """
    baseline, _ = load_model(model, device=device, dtype=dtype)
    quantised, _ = load_model(packed, device=device, dtype=dtype)
    return measure(quantised, data.held_out, baseline, progress)


def describe_quality(quality: Quality, data: Data, packed: Path, before: int) -> dict[str, Any]:
    """The ``quality.quantization`` entry of the manifest.

    Args:
        quality: see :func:`score`.
        data: what it was measured on.
        packed: the quantised checkpoint.
        before: weight bytes of the model it was made from.
    """
    text = quality.text
    assert quality.baseline_nll is not None
    after = read_quantized(packed).weight_bytes
    measured: dict[str, Any] = rounded(
        {
            "perplexity": _number(perplexity(quality.nll)),
            "baseline_perplexity": _number(perplexity(quality.baseline_nll)),
            "kl": quality.kl,
        }
    )
    return {
        "text": text.name,
        **({"sha256": data.held_out_digest} if data.held_out_digest else {}),
        "windows": text.windows.shape[0],
        "window": text.windows.shape[1],
        "tokens": text.scored_tokens,
        "how": text.protocol,
        **measured,
        "weight_bytes": {"before": before, "after": after},
    }


def _number(value: float) -> float | None:
    """The value, or None for an infinite one: JSON has no infinity."""
    return value if isfinite(value) else None


def require_room(meta: ConfigOnly, device: str, dtype: str) -> None:
    """Refuses a model that does not fit into memory, before anything is made of it.

    It is quantised on the CPU as it is stored, and measured beside its result, on a GPU where
    there is one: there, one of the two at a time goes through memory.

    Raises:
        EnvironmentProblem: with what is needed and what is free.
    """
    kind = resolve_device(device).type
    if dtype == "auto":
        dtype = "float32" if kind == "cpu" else meta.dtype
    measured = meta.shape.weight_bytes(BYTES_PER_VALUE[dtype]) * (2 if kind == "cpu" else 1)
    needed = max(meta.shape.weight_bytes(meta.bytes_per_value), measured)
    free = available_memory_bytes()
    if free is not None and free < needed:
        raise EnvironmentProblem(
            f"quantising and measuring loads the model, {human_bytes(needed)} in {dtype}, and "
            f"{human_bytes(free)} of memory are free: give --dtype bfloat16 where it is not given, "
            "or use a machine with more"
        )


def require_kl(quality: Quality, most: float | None) -> None:
    """The gate ``--max-kl``.

    Raises:
        GateMissed: the divergence is above it.
    """
    if most is not None and quality.kl is not None and not quality.kl <= most:
        raise GateMissed(
            f"KL(MODEL || quantised) is {quality.kl:.4g} nats a token on {quality.text.name}, "
            f"above --max-kl {most:g}: nothing is written; a --scheme with more bits, a smaller "
            "--group-size or more --samples lose less",
            measured=quality.kl,
            limit=most,
        )
