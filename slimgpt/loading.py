"""Loading a checkpoint as a transformers model, after the checks that pruning makes too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import Checkpoint, ConfigOnly
from slimgpt.checkpoint.safety import read_json
from slimgpt.errors import UsageError
from slimgpt.resources import resolve_device


def load_model(
    directory: Path, *, device: str = "auto", dtype: str = "auto"
) -> tuple[Any, ConfigOnly]:
    """A causal LM in evaluation mode, and what its config says.

    Args:
        directory: a dense or pruned checkpoint.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: ``auto`` is float32 on a CPU and the stored type on a GPU.

    Raises:
        SlimGPTError: as :class:`~slimgpt.checkpoint.reader.Checkpoint`.
        UsageError: transformers can't load the family without running its code.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    import slimgpt  # noqa: F401 - registers the pruned architectures

    meta = Checkpoint(directory).meta
    target = resolve_device(device)
    if dtype == "auto":
        dtype = "float32" if target.type == "cpu" else meta.dtype
    raw = read_json(directory / "config.json")
    if raw.get("model_type") != meta.config.get("model_type"):
        raise UsageError(
            f"{directory} is a {raw.get('model_type')} checkpoint, which transformers loads only "
            "with the code it brings: convert it first with slimgpt prune --ratio 0"
        )
    disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), local_files_only=True
    )
    return model.to(target).eval(), meta
