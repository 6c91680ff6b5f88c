"""vLLM's entry point: makes `vllm serve` and `LLM` load pruned checkpoints, with no flag.

vLLM calls :func:`register` in each of its processes. Registered are names alone, and the config
classes; the model class is imported by vLLM when a pruned checkpoint is loaded.
"""

from __future__ import annotations

ARCHITECTURES = (
    "SlimLlamaForCausalLM",
    "SlimMistralForCausalLM",
    "SlimQwen2ForCausalLM",
    "SlimQwen3ForCausalLM",
)
"""``architectures`` of pruned checkpoints: one vLLM class serves them all."""


def register() -> None:
    """Registers configs and model class; may be called more than once."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from slimgpt.tokenizer_class import choose_as_stock
    from slimgpt_serve.build_info import publish
    from slimgpt_serve.vllm_config import CONFIGS

    for config_class in CONFIGS:
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        choose_as_stock(config_class.model_type, config_class)
    known = ModelRegistry.get_supported_archs()
    for name in ARCHITECTURES:
        if name not in known:
            ModelRegistry.register_model(name, "slimgpt_serve.vllm_model:SlimForCausalLM")
    publish()
