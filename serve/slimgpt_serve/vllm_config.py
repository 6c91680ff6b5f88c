"""Configs of pruned checkpoints as vLLM reads them: stock ones with a list of widths.

transformers' own reading of ``per_layer_config`` raises where a width that differs is read off the
whole model, which vLLM 0.26 does in many places and later versions in some. Here the whole model
has the largest widths, which is what vLLM then sizes things by, and ``slimgpt_layers`` has the
layers' own.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config

from slimgpt.families import Family
from slimgpt.families.base import PER_LAYER
from slimgpt.families.llama import Llama
from slimgpt.families.mistral import Mistral
from slimgpt.families.qwen import Qwen2, Qwen3
from slimgpt.shape import LayerShape

_WIDTHS = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


class _ListedWidths:
    """Moves ``per_layer_config`` into a list that only the model class reads."""

    slimgpt_family: Family

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Reads a config.json.

        Raises:
            IntegrityError: a size is missing, or contradicts another.
        """
        values = dict(config_dict)
        if "slimgpt_layers" not in values:
            shape = cls.slimgpt_family.shape(values)
            values.pop(PER_LAYER, None)
            values |= {
                "head_dim": shape.head_dim,
                "slimgpt_layers": [[x.query_heads, x.kv_heads, x.ffn] for x in shape.layers],
            }
        return super().from_dict(values, **kwargs)  # type: ignore[misc]


@strict
class ServedLlamaConfig(_ListedWidths, LlamaConfig):
    """A pruned Llama."""

    model_type = "slimgpt_llama"
    slimgpt_family = Llama()

    def validate_architecture(self) -> None:
        """Any head count: stock Llama insists on hidden_size % num_attention_heads == 0."""


@strict
class ServedMistralConfig(_ListedWidths, MistralConfig):
    """A pruned Mistral."""

    model_type = "slimgpt_mistral"
    slimgpt_family = Mistral()


@strict
class ServedQwen2Config(_ListedWidths, Qwen2Config):
    """A pruned Qwen2."""

    model_type = "slimgpt_qwen2"
    slimgpt_family = Qwen2()


@strict
class ServedQwen3Config(_ListedWidths, Qwen3Config):
    """A pruned Qwen3."""

    model_type = "slimgpt_qwen3"
    slimgpt_family = Qwen3()


CONFIGS: tuple[type[Any], ...] = (
    ServedLlamaConfig,
    ServedMistralConfig,
    ServedQwen2Config,
    ServedQwen3Config,
)


def layer_shapes(config: Any) -> list[LayerShape]:
    """Widths of every layer: listed, or those of a stock config, the same in all."""
    listed = getattr(config, "slimgpt_layers", None)
    stock = [getattr(config, name) for name in _WIDTHS]
    return [LayerShape(*x) for x in listed or [stock] * config.num_hidden_layers]


def of_layer(config: Any, index: int) -> Any:
    """The config of one layer: a stock one at that layer's widths, 0 where a part is absent."""
    layer, widths = copy(config), layer_shapes(config)[index]
    if config.model_type in ("qwen2", "slimgpt_qwen2"):
        layer.qkv_bias = True  # what vLLM's Llama calls biases of q, k and v and none after
    for name, width in zip(_WIDTHS, (widths.query_heads, widths.kv_heads, widths.ffn), strict=True):
        setattr(layer, name, width)
    return layer
