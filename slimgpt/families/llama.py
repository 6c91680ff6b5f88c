"""Llama 1, 2 and 3 with all rope scalings, and what shares their class: Vicuna, Alpaca, Yi."""

from __future__ import annotations

from slimgpt.families.base import Config, Family, flag
from slimgpt.shape import ModelShape


class Llama(Family):
    """Llama and the fine-tunes that share its class."""

    model_type = "llama"
    architecture = "LlamaForCausalLM"
    pruned_model_type = "slimgpt_llama"
    pruned_architecture = "SlimLlamaForCausalLM"
    aliases = ("LLaMAForCausalLM",)

    def traits(self, config: Config) -> dict[str, bool]:
        bias = flag(config, "attention_bias")
        return {"qkv_bias": bias, "output_bias": bias, "ffn_bias": flag(config, "mlp_bias")}

    def stock_config(self, config: Config, shape: ModelShape) -> Config:
        """Llama, or Mistral where LlamaConfig would refuse the head count.

        LlamaConfig insists on hidden_size % num_attention_heads == 0 even with a head_dim;
        MistralConfig does not, and its model without a sliding window is the same function. With
        biases, which Mistral lacks, the per-layer class stays.
        """
        if shape.hidden_size % shape.layers[0].query_heads == 0:
            return super().stock_config(config, shape)
        if shape.qkv_bias or shape.ffn_bias:
            return config
        config = {k: v for k, v in config.items() if k not in ("attention_bias", "mlp_bias")}
        # Where the file says nothing, LlamaConfig takes 2048 positions and MistralConfig 131072.
        return (
            {"max_position_embeddings": 2048}
            | config
            | {
                "model_type": "mistral",
                "architectures": ["MistralForCausalLM"],
                "sliding_window": None,
            }
        )
