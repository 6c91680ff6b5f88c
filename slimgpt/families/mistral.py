"""Mistral 7B and its kin: Llama without biases, with an optional sliding window."""

from __future__ import annotations

from slimgpt.families.base import Config, Family, whole


class Mistral(Family):
    """Mistral, whose window holds for every layer."""

    model_type = "mistral"
    architecture = "MistralForCausalLM"
    pruned_model_type = "slimgpt_mistral"
    pruned_architecture = "SlimMistralForCausalLM"

    def sliding_window(self, config: Config, layer: int) -> int | None:
        # transformers' MistralConfig takes 4096 where the file says nothing.
        if "sliding_window" in config and config["sliding_window"] is None:
            return None
        return whole({"sliding_window": 4096} | config, "sliding_window")
