"""transformers configs and models for per-layer widths: stock layers, each built at its own.

The configs add nothing but a model type: ``per_layer_config`` is transformers' own schema
(>= 5.15), which its stock models refuse and these read.

Nothing of the forward pass is written again. A model is built without layers by its stock class,
and then given one stock decoder layer per entry of ``config.per_layer_config``. Two things differ:

* an absent sub-block contributes zero, and its norm is gone with it;
* attention layers take the first KV caches instead of those of their own number, because
  transformers reads the length of the past from cache 0, which stays empty when layer 0 has no
  attention.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel, AutoModelForCausalLM
from transformers.models.llama import modeling_llama
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.mistral import modeling_mistral
from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config

from slimgpt.tokenizer_class import choose_as_stock


class _PerLayerWidths:
    """What transformers' configs get wrong where layers differ."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        _let_windows_follow_attention(self)

    def validate_rope(self: Any) -> None:
        """Asks one layer: the check of longrope reads num_attention_heads, which differs."""
        if self.is_heterogeneous:
            self.per_layer_config[0].validate_rope()
        else:
            super().validate_rope()  # type: ignore[misc]


@strict
class SlimLlamaConfig(_PerLayerWidths, LlamaConfig):
    """A Llama whose layers may differ in heads and FFN width."""

    model_type = "slimgpt_llama"

    def validate_architecture(self) -> None:
        """Any head count: stock Llama insists on hidden_size % num_attention_heads == 0."""


@strict
class SlimMistralConfig(_PerLayerWidths, MistralConfig):
    """A Mistral whose layers may differ in heads and FFN width."""

    model_type = "slimgpt_mistral"


@strict
class SlimQwen2Config(_PerLayerWidths, Qwen2Config):
    """A Qwen2 whose layers may differ in heads and FFN width."""

    model_type = "slimgpt_qwen2"


@strict
class SlimQwen3Config(_PerLayerWidths, Qwen3Config):
    """A Qwen3 whose layers may differ in heads and FFN width."""

    model_type = "slimgpt_qwen3"


def absent(layer_config: Any, sub_block: str) -> bool:
    """Whether a layer's config skips ``attention`` or ``mlp``."""
    return sub_block in getattr(layer_config, "skip", [])


def _attends(config: Any) -> list[bool]:
    """Whether each layer has attention."""
    return [not absent(layer, "attention") for layer in config.per_layer_config]


def _let_windows_follow_attention(config: Any) -> None:
    """Gives layers without attention the window of the first that has attention.

    Else all layers of layer 0's window might lack attention, and no layer would fill cache 0.
    """
    types, attends = getattr(config, "layer_types", None), _attends(config)
    if types and any(attends):
        first = types[attends.index(True)]
        config.layer_types = [t if a else first for t, a in zip(types, attends, strict=True)]


class AbsentAttention(nn.Module):
    """Stands where a layer has no attention: contributes nothing to the residual stream."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return torch.zeros_like(hidden_states), None


class AbsentFFN(nn.Module):
    """Stands where a layer has no feed-forward block."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(hidden_states)


def build_layer(
    layer_class: type[nn.Module], config: Any, index: int, cache_index: int
) -> nn.Module:
    """One stock decoder layer at the widths of layer ``index``.

    Args:
        layer_class: transformers' decoder layer of the family.
        config: one of the configs above.
        index: the layer's number; decides its window where windows differ by layer.
        cache_index: number of its KV cache.
    """
    layer_config = config.per_layer_config[index]
    # The sub-blocks a layer skips are built at width one and replaced: the config has no zero.
    layer: Any = layer_class(layer_config, index)
    if absent(layer_config, "attention"):
        layer.self_attn = AbsentAttention()
        layer.input_layernorm = nn.Identity()
    else:
        layer.self_attn.layer_idx = cache_index
    if absent(layer_config, "mlp"):
        layer.mlp = AbsentFFN()
        layer.post_attention_layernorm = nn.Identity()
    return layer  # type: ignore[no-any-return]


def cache_slots(config: Any) -> list[int]:
    """Which KV cache each layer writes to: the first free one that is made for its window.

    transformers makes one cache a layer, for the window of that layer, and reads the length of the
    past from cache 0. The first layer with attention takes it: where layer 0 has none, it has been
    given that layer's window. The slot of a layer without attention is never used.
    """
    attends = _attends(config)
    types = getattr(config, "layer_types", None) or ["any"] * len(attends)
    free = list(range(len(types)))
    slots = []
    for kind, used in zip(types, attends, strict=True):
        slots.append(next(slot for slot in free if types[slot] == kind))
        if used:
            free.remove(slots[-1])
    return slots


def build_layers(layer_class: type[nn.Module], config: Any) -> nn.ModuleList:
    """All decoder layers of a config."""
    slots = cache_slots(config)
    return nn.ModuleList(build_layer(layer_class, config, i, slot) for i, slot in enumerate(slots))


def without_layers(config: Any) -> Any:
    """The config of the same model with no decoder layer, for the stock constructor."""
    bare = copy.deepcopy(config)
    bare.per_layer_config = None
    bare.num_hidden_layers = 0
    if getattr(bare, "layer_types", None) is not None:
        bare.layer_types = []
    return bare


class _Slim:
    """Shared by all classes below: the attention implementation reaches every layer's config."""

    config: Any

    def _adopt(self, config: Any) -> None:
        """Takes the full config after the stock constructor has run on a bare one."""
        config._attn_implementation_internal = self.config._attn_implementation_internal
        self.config = config

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """The stock attention classes can; transformers looks for them in this file only."""
        return True

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        super().set_attn_implementation(*args, **kwargs)  # type: ignore[misc]
        for module in self.modules():  # type: ignore[attr-defined]
            if hasattr(module, "num_key_value_groups"):
                chosen = self.config._attn_implementation_internal
                module.config._attn_implementation_internal = chosen


class _SlimModel(_Slim):
    layer_class: ClassVar[type[nn.Module]]

    def __init__(self, config: Any) -> None:
        super().__init__(without_layers(config))  # type: ignore[call-arg]
        self._adopt(config)
        self.layers = build_layers(self.layer_class, config)
        types = getattr(config, "layer_types", None)
        if types is not None:
            self.has_sliding_layers = "sliding_attention" in types
        self.post_init()  # type: ignore[attr-defined]


class _SlimCausalLM(_Slim):
    model_class: ClassVar[type[nn.Module]]

    def __init__(self, config: Any) -> None:
        super().__init__(without_layers(config))  # type: ignore[call-arg]
        self._adopt(config)
        self.model = self.model_class(config)
        self.post_init()  # type: ignore[attr-defined]


class SlimLlamaModel(_SlimModel, modeling_llama.LlamaModel):
    """Llama with per-layer widths, without a head."""

    config_class = SlimLlamaConfig
    layer_class = modeling_llama.LlamaDecoderLayer


class SlimLlamaForCausalLM(_SlimCausalLM, modeling_llama.LlamaForCausalLM):
    """Llama with per-layer widths."""

    config_class = SlimLlamaConfig
    model_class = SlimLlamaModel


class SlimMistralModel(_SlimModel, modeling_mistral.MistralModel):
    """Mistral with per-layer widths, without a head."""

    config_class = SlimMistralConfig
    layer_class = modeling_mistral.MistralDecoderLayer


class SlimMistralForCausalLM(_SlimCausalLM, modeling_mistral.MistralForCausalLM):
    """Mistral with per-layer widths."""

    config_class = SlimMistralConfig
    model_class = SlimMistralModel


class SlimQwen2Model(_SlimModel, modeling_qwen2.Qwen2Model):
    """Qwen2 with per-layer widths, without a head."""

    config_class = SlimQwen2Config
    layer_class = modeling_qwen2.Qwen2DecoderLayer


class SlimQwen2ForCausalLM(_SlimCausalLM, modeling_qwen2.Qwen2ForCausalLM):
    """Qwen2 with per-layer widths."""

    config_class = SlimQwen2Config
    model_class = SlimQwen2Model


class SlimQwen3Model(_SlimModel, modeling_qwen3.Qwen3Model):
    """Qwen3 with per-layer widths, without a head."""

    config_class = SlimQwen3Config
    layer_class = modeling_qwen3.Qwen3DecoderLayer


class SlimQwen3ForCausalLM(_SlimCausalLM, modeling_qwen3.Qwen3ForCausalLM):
    """Qwen3 with per-layer widths."""

    config_class = SlimQwen3Config
    model_class = SlimQwen3Model


@dataclass(frozen=True, slots=True)
class Architecture:
    """The transformers classes of one pruned model type."""

    config: type[Any]
    model: type[Any]
    causal_lm: type[Any]
    rotary: type[Any]


ARCHITECTURES: dict[str, Architecture] = {
    a.config.model_type: a
    for a in (
        Architecture(
            SlimLlamaConfig,
            SlimLlamaModel,
            SlimLlamaForCausalLM,
            modeling_llama.LlamaRotaryEmbedding,
        ),
        Architecture(
            SlimMistralConfig,
            SlimMistralModel,
            SlimMistralForCausalLM,
            modeling_mistral.MistralRotaryEmbedding,
        ),
        Architecture(
            SlimQwen2Config,
            SlimQwen2Model,
            SlimQwen2ForCausalLM,
            modeling_qwen2.Qwen2RotaryEmbedding,
        ),
        Architecture(
            SlimQwen3Config,
            SlimQwen3Model,
            SlimQwen3ForCausalLM,
            modeling_qwen3.Qwen3RotaryEmbedding,
        ),
    )
}


def _register() -> None:
    """Makes transformers' auto classes load the pruned model types and their tokenizers."""
    for model_type, a in ARCHITECTURES.items():
        AutoConfig.register(model_type, a.config, exist_ok=True)
        AutoModel.register(a.config, a.model, exist_ok=True)
        AutoModelForCausalLM.register(a.config, a.causal_lm, exist_ok=True)
        choose_as_stock(model_type, a.config)


_register()
