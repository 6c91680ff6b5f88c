"""What vLLM can't run of a model, what it runs in a class of ours, and how long a text it takes.

Read in vLLM 0.26, 0.32 and 0.33: ``get_rope``, ``LlamaMLP``, ``Qwen2Attention``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import UsageError
from slimgpt.families.qwen import Qwen2, Qwen3
from slimgpt_serve.head_sizes import kernel_head_dim

ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
"""Kinds of rope that vLLM computes as transformers does, but for what is refused below."""

QUANTISED_BY = ("compressed-tensors", "awq", "fp8", "gptq", "modelopt", "quark", "torchao")
"""``quant_method`` that dense models come in, and that vLLM reads in 0.26 to 0.33."""

DEFAULT_POSITIONS = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
"""What transformers, and so vLLM, takes where config.json has no ``max_position_embeddings``."""

_SAME = 1e-6
"""Relative difference of two rope factors that are the same number, written differently."""


@dataclass(frozen=True, slots=True)
class Context:
    """How long a text may be, in tokens.

    Attributes:
        limit: the most that vLLM can be told.
        default: what is served where nobody asks for more.
        note: why the two differ.
    """

    limit: int
    default: int
    note: str | None = None


def require_servable(name: str, meta: ConfigOnly, version: tuple[int, ...] | None) -> None:
    """Refuses what vLLM's layers don't compute, or compute differently.

    Args:
        name: of the model, as the user gave it.
        meta: its config.
        version: of vLLM, where it is known.

    Raises:
        UsageError: saying what, and what to do.
    """
    if meta.family.model_type == "baichuan":
        raise UsageError(
            f"{name} is a Baichuan checkpoint, whose config vLLM reads with code from the "
            "checkpoint only: prune it, or convert it with `slimgpt export stock`"
        )
    act = meta.config.get("hidden_act", "silu")
    if act != "silu":
        raise UsageError(
            f"{name} has hidden_act {act!r}, and vLLM's Llama runs silu alone: serve another model"
        )
    method = (meta.config.get("quantization_config") or {}).get("quant_method")
    if method is not None and method not in QUANTISED_BY:
        raise UsageError(
            f"{name} is quantised by {method!r}, which vLLM does not read: it takes "
            f"{', '.join(QUANTISED_BY)}; slimgpt export quantized writes the first"
        )
    if not any(layer.has_attention for layer in meta.shape.layers):
        raise UsageError(
            f"no layer of {name} has attention, and vLLM needs one that has: prune less of it"
        )
    reason = _rope_problem(meta, version)
    if reason:
        raise UsageError(f"{name}: {reason}")


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    """The rope settings of a config, in either spelling, with ``rope_type`` filled in."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    original = config.get("original_max_position_embeddings")
    found = {"original_max_position_embeddings": original} if original else {}
    return found | rope | {"rope_type": kind}


def _rope_problem(meta: ConfigOnly, version: tuple[int, ...] | None) -> str | None:
    rope = rope_of(meta.config)
    kind = rope["rope_type"]
    if kind not in ROPES:
        return f"vLLM computes no rope of type {kind!r}: it takes {', '.join(ROPES)}"
    if kind == "dynamic" and {"alpha", "max_trained_positions"} & rope.keys():
        return "vLLM scales a dynamic rope with alpha or max_trained_positions as no other does"
    own = {"attention_factor", "mscale", "mscale_all_dim"} & rope.keys()
    if kind == "yarn" and own and version and version < (0, 32):
        return f"this vLLM ignores {', '.join(sorted(own))} of a yarn rope: use 0.32 or later"
    if kind == "longrope":
        return _longrope_problem(meta, rope)
    return None


def _longrope_problem(meta: ConfigOnly, rope: dict[str, Any]) -> str | None:
    """vLLM derives the attention factor from the two lengths, and from nothing else."""
    original = rope.get("original_max_position_embeddings")
    if not isinstance(original, int) or original < 1:
        return "its longrope has no original_max_position_embeddings, which vLLM needs"
    ratio = positions(meta) / original
    factor = rope.get("factor")
    if rope.get("attention_factor") is not None:
        return "vLLM ignores attention_factor of a longrope: no vLLM serves it as it was trained"
    if factor is not None and abs(factor - ratio) > _SAME * ratio:
        return (
            f"its longrope has factor {factor}, and vLLM takes max_position_embeddings / "
            f"original_max_position_embeddings, which is {ratio:g}"
        )
    return None


def positions(meta: ConfigOnly) -> int:
    """Positions of a model, by its config or by transformers' default."""
    return meta.context_length or DEFAULT_POSITIONS[meta.family.model_type]


def context_of(meta: ConfigOnly) -> Context:
    """How long a text vLLM takes.

    Dynamic rope is exact up to ``max_position_embeddings``, where transformers begins to scale it
    and vLLM does not. Longrope has two sets of factors: transformers chooses by the length of each
    text, vLLM once, by the longest it may meet.
    """
    most, rope = positions(meta), rope_of(meta.config)
    original = rope.get("original_max_position_embeddings") or most
    if rope["rope_type"] == "yarn":
        most = min(most, int(original * rope.get("factor", 1)))
    if rope["rope_type"] == "longrope" and original < most:
        note = (
            f"longrope: beyond {original} tokens vLLM computes every text with the long factors, "
            f"so that --max-model-len {most} changes short answers too"
        )
        return Context(most, original, note)
    return Context(most, most)


def own_class(meta: ConfigOnly, platform: str) -> str | None:
    """The class of ours that serves a stock checkpoint which vLLM's own class can't.

    Heads narrower than any CPU kernel; a Qwen2 whose heads don't fill its hidden size; a Qwen with
    windows, of which vLLM's class takes none on some layers only.

    Returns:
        for ``architectures``; None where vLLM's class does.
    """
    family, shape = meta.family, meta.shape
    if meta.stored_type == family.pruned_model_type:
        return None
    narrow = kernel_head_dim(shape.head_dim, platform) != shape.head_dim
    qwen = isinstance(family, Qwen2 | Qwen3)
    loose = isinstance(family, Qwen2) and (
        shape.layers[0].query_heads * shape.head_dim != shape.hidden_size
    )
    windows = qwen and any(
        family.sliding_window(meta.config, i) is not None for i in range(len(shape.layers))
    )
    return family.pruned_architecture if narrow or loose or windows else None
