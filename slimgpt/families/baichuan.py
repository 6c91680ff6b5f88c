"""Baichuan-7B: a Llama whose q, k and v are one matrix (W_pack); it is converted to Llama.

Baichuan-13B (ALiBi) and Baichuan 2 (a normalised LM head) are other functions and are refused.
"""

from __future__ import annotations

from slimgpt.families.base import Config, WeightSource, refuse
from slimgpt.families.llama import Llama
from slimgpt.shape import ModelShape

_BAICHUAN_1_VOCABULARY = 64000


class Baichuan(Llama):
    """Baichuan-7B, read as the Llama it is."""

    model_type = "baichuan"
    architecture = "BaiChuanForCausalLM"
    aliases = ("BaichuanForCausalLM",)

    def canonical(self, config: Config) -> Config:
        if "max_position_embeddings" not in config:
            raise refuse("Baichuan-13B uses ALiBi instead of rotary positions")
        if config.get("vocab_size", 0) > _BAICHUAN_1_VOCABULARY:
            raise refuse("Baichuan 2 normalises its LM head")
        return {k: v for k, v in config.items() if k != "auto_map"} | {
            "model_type": Llama.model_type,
            "architectures": [Llama.architecture],
        }

    def stock_config(self, config: Config, shape: ModelShape) -> Config:
        return Llama().stock_config(config, shape)

    def layer_sources(self, shape: ModelShape, index: int) -> dict[str, WeightSource]:
        sources = super().layer_sources(shape, index)
        width = shape.layers[index].query_heads * shape.head_dim
        packed = f"model.layers.{index}.self_attn.W_pack.weight"
        for row, letter in enumerate("qkv"):
            sources[f"self_attn.{letter}_proj.weight"] = WeightSource(
                packed, (3 * width, shape.hidden_size), row * width, (row + 1) * width
            )
        return sources
