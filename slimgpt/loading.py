"""Loading a checkpoint as a transformers model, after the checks that pruning makes too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimgpt.checkpoint.quantized import is_quantized, read_quantized
from slimgpt.checkpoint.reader import Checkpoint, ConfigOnly
from slimgpt.errors import IntegrityError, SlimGPTError, UsageError
from slimgpt.resources import resolve_device
from slimgpt.unpacking import load_unpacked, require_unpackable


def require_loadable(meta: ConfigOnly) -> None:
    """Lets transformers check what a shape does not need: rope, activation, norms, windows.

    It builds the config, the rotary embedding and one layer without memory, in milliseconds.

    Raises:
        IntegrityError: transformers refuses config.json.
    """
    import torch

    from slimgpt.modeling import ARCHITECTURES, build_layer, without_layers

    architecture = ARCHITECTURES[meta.family.pruned_model_type]
    values = meta.family.per_layer_config(meta.config, meta.shape)
    try:
        config = architecture.config.from_dict(values)
        architecture.rotary(without_layers(config))
        config._attn_implementation_internal = "sdpa"
        with torch.device("meta"):
            build_layer(architecture.model.layer_class, config, 0, 0)
        for index in range(len(meta.shape.layers)):
            meta.family.sliding_window(meta.config, index)
    except SlimGPTError:
        raise
    except Exception as reason:  # noqa: BLE001 - every check of transformers has its own kind
        raise IntegrityError(
            f"{meta.directory}/config.json is refused by transformers: "
            f"{type(reason).__name__}: {reason}"
        ) from None


def require_stock_code(meta: ConfigOnly) -> None:
    """Refuses a checkpoint whose class transformers does not have (Baichuan).

    Raises:
        UsageError: naming the way out.
    """
    if meta.stored_type != meta.config["model_type"]:
        raise UsageError(
            f"{meta.directory} is a {meta.stored_type} checkpoint, which transformers loads only "
            "with the code it brings: convert it first with slimgpt prune --ratio 0"
        )


def load_model(
    directory: Path, *, device: str = "auto", dtype: str = "auto"
) -> tuple[Any, ConfigOnly]:
    """A causal LM in evaluation mode, and what its config says.

    Args:
        directory: a dense, pruned or quantised checkpoint.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: ``auto`` is float32 on a CPU and the stored type on a GPU.

    Raises:
        SlimGPTError: as :class:`~slimgpt.checkpoint.reader.Checkpoint`.
        UsageError: transformers can't load the family without running its code.
        EnvironmentProblem: the weights are quantised, and the package that unpacks them is missing.
        IntegrityError: a weight is NaN or infinite.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    import slimgpt  # noqa: F401 - registers the pruned architectures

    meta = _checked(directory)
    target = resolve_device(device)
    require_loadable(meta)
    if dtype == "auto":
        dtype = "float32" if target.type == "cpu" else meta.dtype
    require_stock_code(meta)
    disable_progress_bar()
    if is_quantized(directory):
        model: Any = load_unpacked(directory, getattr(torch, dtype))
    else:
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False
        )
    damaged = next((n for n, p in model.named_parameters() if not p.isfinite().all()), None)
    if damaged:
        raise IntegrityError(f"{directory}: {damaged} holds NaN or infinite values in {dtype}")
    return model.to(target).eval(), meta


def _checked(directory: Path) -> ConfigOnly:
    """What the config says, once the headers of the weight files agree with it."""
    if not is_quantized(directory):
        return Checkpoint(directory).meta
    quantized = read_quantized(directory)
    require_unpackable(quantized)
    return quantized.meta
