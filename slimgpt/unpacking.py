"""Quantised weights, unpacked so that a model can be run. Alone imports compressed-tensors."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.quantized import METHOD, Quantized
from slimgpt.errors import UsageError, missing_extra


def require_unpackable(quantized: Quantized) -> None:
    """Refuses weights that can't be unpacked.

    Raises:
        UsageError: another library packed them.
        EnvironmentProblem: compressed-tensors is not installed.
    """
    if quantized.method != METHOD:
        raise UsageError(
            f"{quantized.meta.directory} is quantised by {quantized.method}: slimgpt runs what "
            "slimgpt export quantized writes, and the like of it (compressed-tensors)"
        )
    if find_spec("compressed_tensors") is None:
        raise missing_extra("running a quantised model", "quantize")


def load_unpacked(directory: Path, dtype: Any) -> Any:
    """The model on the CPU with its weights in ``dtype``; activations are rounded as it runs.

    Args:
        directory: of a checkpoint that :func:`require_unpackable` passed.
        dtype: of torch, to compute in.
    """
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    from slimgpt.evaluate.quiet import quiet

    with quiet():
        offload: Any = import_module("compressed_tensors.offload")  # it ships no types
        model: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            quantization_config=CompressedTensorsConfig(dequantize=True),
            local_files_only=True,
            trust_remote_code=False,
        )
        # Unpacking ties every tensor to the CPU, so that .to("cuda") would do nothing, silently.
        return offload.remove_dispatch(model)
