"""Loading what the exporter of torch is given: our families, and any other of transformers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.checkpoint.reader import ConfigOnly, read_config, read_headers
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.errors import IntegrityError, UsageError
from slimgpt.families import FAMILIES
from slimgpt.loading import load_model


def known_family(directory: Path) -> bool:
    """Whether SlimGPT has an adapter for the model type of a checkpoint."""
    model_type = read_json(inside(directory, directory / "config.json")).get("model_type")
    return any(model_type in (x.model_type, x.pruned_model_type) for x in FAMILIES)


def load_for_export(directory: Path, dtype: torch.dtype) -> tuple[Any, ConfigOnly | None]:
    """A causal LM on the CPU in evaluation mode, and what SlimGPT knows of it.

    Args:
        directory: a checkpoint of any causal LM that transformers has a class for.
        dtype: of the weights.

    Returns:
        the model, and its config and shape; None where the family is none of ours.

    Raises:
        UsageError: the weights are quantised, or it is no text-only causal LM of transformers.
        IntegrityError: files are damaged, or weights missing or no finite numbers.
    """
    if known_family(directory):
        meta = read_config(directory)  # refuses weights that are quantised
        model, _ = load_model(directory, device="cpu", dtype=str(dtype).removeprefix("torch."))
        return model, meta
    return _load_foreign(directory, dtype), None


def freeze_rope(model: Any) -> None:
    """Makes angles a function of the positions alone, which a graph can hold.

    Dynamic scaling leaves the frequencies as they are up to the context that the model was made
    for, and is not applied. longrope has two sets, and takes the one for the longest text of a
    batch, as transformers does.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if getattr(child, "rope_type", None) == "longrope":
                setattr(parent, name, _LongRope(child))
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, dict):  # one for each kind of layer
            module.rope_type = {name: _frozen(value) for name, value in kind.items()}
        elif kind is not None:
            module.rope_type = _frozen(kind)


def _frozen(kind: str) -> str:
    return "default" if "dynamic" in kind else kind


class _LongRope(nn.Module):
    """longrope with both sets of frequencies, the choice between them in the graph."""

    def __init__(self, rotary: Any) -> None:
        super().__init__()
        self.switch = int(rotary.config.rope_parameters["original_max_position_embeddings"])
        self.short, self.long = copy.deepcopy(rotary), copy.deepcopy(rotary)
        for side, position in ((self.short, 0), (self.long, self.switch)):
            side(torch.zeros(1), torch.tensor([[position]]))  # takes the frequencies for it
            side.rope_type = "default"  # and keeps them

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
        beyond = position_ids.max() + 1 > self.switch
        sides = zip(self.long(x, position_ids), self.short(x, position_ids), strict=True)
        return tuple(torch.where(beyond, long, short) for long, short in sides)


def _load_foreign(directory: Path, dtype: torch.dtype) -> Any:
    """A model that SlimGPT has no adapter for; its files are as little trusted as any."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    raw = read_json(inside(directory, directory / "config.json"))
    if raw.get("quantization_config"):
        raise UsageError(f"{directory} is quantised: give the MODEL that it was made from")
    attention = _attention(directory)
    read_headers(directory)  # shards within the directory, readable, none of them pickled
    disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as reason:  # noqa: BLE001 - every class of transformers has its own kinds
        raise _refused(directory, reason) from None
    model, told = loaded
    _require_whole(directory, model, told)
    return model.eval()


def _attention(directory: Path) -> str | None:
    """The attention implementation: transformers' choice, but where that drops soft caps.

    Raises:
        UsageError: transformers can't read the config, or the model takes more than text.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as reason:  # noqa: BLE001 - as above
        raise _refused(directory, reason) from None
    if config.is_encoder_decoder or config.get_text_config() is not config:
        raise UsageError(
            f"--portable: {directory} is a {config.model_type} model, and exported are those that "
            "continue a text and take nothing else"
        )
    # scaled_dot_product_attention has no soft cap, and transformers leaves it out there.
    return "eager" if getattr(config, "attn_logit_softcapping", None) else None


def _refused(directory: Path, reason: Exception) -> UsageError:
    text = " ".join(str(reason).split())
    return UsageError(
        f"--portable: {directory} is no causal LM that transformers loads without running code of "
        f"its own: {type(reason).__name__}: {text[:300]}"
    )


def _require_whole(directory: Path, model: Any, told: dict[str, Any]) -> None:
    """Refuses weights that transformers would fill with random numbers, and such that are none."""
    absent = sorted({*told["missing_keys"], *(str(x[0]) for x in told["mismatched_keys"])})
    if absent:
        raise IntegrityError(
            f"{directory} lacks {absent[0]} in the shape that its config.json gives it "
            f"({len(absent)} such weights): download it again"
        )
    damaged = next((n for n, p in model.named_parameters() if not p.isfinite().all()), None)
    if damaged:
        raise IntegrityError(f"{directory}: {damaged} holds NaN or infinite values")
