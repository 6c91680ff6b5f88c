"""LoRA on every projection of a model. The one module that imports peft."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.writer import write_durably
from slimgpt.errors import IntegrityError, missing_extra
from slimgpt.recover.options import RecoverOptions

if TYPE_CHECKING:
    from torch import Tensor

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PREFIX = "base_model.model."


def require_peft() -> None:
    """Refuses to start where the ``recover`` extra is missing.

    Raises:
        EnvironmentProblem: naming the extra.
    """
    try:
        import peft  # noqa: F401
    except ImportError:
        raise missing_extra("slimgpt recover", "recover") from None


def with_adapter(model: Any, options: RecoverOptions) -> Any:
    """The model with fresh low-rank updates on all seven projections, everything else frozen.

    The updates are float32 whatever the model's type, and begin as zero (B = 0).

    Args:
        model: a transformers causal LM; layers may differ in widths or lack sub-blocks.
        options: rank, alpha, dropout and the seed of A's random start.
    """
    require_peft()
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(options.seed)
    alpha: Any = options.alpha  # annotated as int, and any number to peft
    config = LoraConfig(
        r=options.rank,
        lora_alpha=alpha,
        lora_dropout=options.dropout,
        target_modules=list(PROJECTIONS),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config, autocast_adapter_dtype=True)


def save_adapter(model: Any, path: Path, record: dict[str, Any]) -> None:
    """Writes the updates durably as one file, with what is known of them."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu() for name, tensor in state.items()}
    write_durably(path, tensors, {"record": json.dumps(record), "sha256": _digest(tensors)})


def read_record(path: Path) -> dict[str, Any]:
    """What :func:`save_adapter` was told.

    Raises:
        IntegrityError: the file was damaged since.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads(file.metadata()["record"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise _damaged(path) from None
    return record


def load_adapter(model: Any, path: Path) -> None:
    """Puts saved updates into a model that :func:`with_adapter` made.

    Raises:
        IntegrityError: the file was damaged since.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = file.metadata()["sha256"]
    except (SafetensorError, OSError, KeyError, TypeError):
        raise _damaged(path) from None
    if _digest(tensors) != digest:
        raise _damaged(path)
    set_peft_model_state_dict(model, tensors)


def updated(model: Any) -> dict[str, Any]:
    """peft's layer for each weight that has an update, under the weight's name."""
    from peft.tuners.lora import LoraLayer

    return {
        f"{name.removeprefix(_PREFIX)}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def delta(layer: Any) -> Tensor:
    """What the update of a layer adds to its weight: ``scaling * B @ A``, (out, in), float32."""
    import torch

    with torch.no_grad():
        return layer.get_delta_weight("default").float().cpu()  # type: ignore[no-any-return]


def _digest(tensors: dict[str, Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode())
        whole.update(tensors[name].contiguous().numpy().tobytes())
    return whole.hexdigest()


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError(f"{path} is damaged: start again with --fresh")
