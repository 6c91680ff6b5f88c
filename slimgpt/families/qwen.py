"""Qwen2 (q/k/v biases) and Qwen3 (q/k norms), dense; windows on the layers the config names."""

from __future__ import annotations

from collections.abc import Sequence

from slimgpt.families.base import Config, Family, flag, whole
from slimgpt.shape import ModelShape


class _Qwen(Family):
    def keep_layers(self, config: Config, kept: Sequence[int]) -> Config:
        """As for all families; layers that saw everything go on to."""
        out = super().keep_layers(config, kept)
        if config.get("max_window_layers") is not None or flag(config, "use_sliding_window"):
            before = _layers_without_window(config)
            out["max_window_layers"] = sum(layer < before for layer in kept)
        return out

    def sliding_window(self, config: Config, layer: int) -> int | None:
        if not flag(config, "use_sliding_window") or config.get("sliding_window", 4096) is None:
            return None
        window = whole({"sliding_window": 4096} | config, "sliding_window")
        types = config.get("layer_types")
        slides = (
            types[layer] == "sliding_attention"
            if types
            else layer >= _layers_without_window(config)
        )
        return window if slides else None


def _layers_without_window(config: Config) -> int:
    """How many layers stand before the first that has a window; 0 where all have one."""
    value = config.get("max_window_layers", 28)
    if type(value) is int and value == 0:
        return 0
    return whole({"max_window_layers": value}, "max_window_layers")


class Qwen2(_Qwen):
    """Qwen2 and Qwen2.5: q, k and v have biases."""

    model_type = "qwen2"
    architecture = "Qwen2ForCausalLM"
    pruned_model_type = "slimgpt_qwen2"
    pruned_architecture = "SlimQwen2ForCausalLM"

    def traits(self, config: Config) -> dict[str, bool]:
        return {"qkv_bias": True}

    def stock_config(self, config: Config, shape: ModelShape) -> Config:
        """Qwen2 where its heads fill the hidden size; else the per-layer class stays.

        vLLM's Qwen2 takes hidden_size // num_attention_heads for the width of a head, whatever
        head_dim says. `slimgpt export stock` makes a Llama with biases of it.
        """
        if shape.layers[0].query_heads * shape.head_dim != shape.hidden_size:
            return config
        return super().stock_config(config, shape)


class Qwen3(_Qwen):
    """Qwen3, dense: q and k are normalised per head."""

    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    pruned_model_type = "slimgpt_qwen3"
    pruned_architecture = "SlimQwen3ForCausalLM"

    def traits(self, config: Config) -> dict[str, bool]:
        bias = flag(config, "attention_bias")
        return {"qk_norm": True, "qkv_bias": bias, "output_bias": bias}

    def _head_dim(self, config: Config, hidden: int, heads: int) -> int:
        return whole({"head_dim": 128} | config, "head_dim")
