"""The adapters, and how a config.json finds its own."""

from __future__ import annotations

from slimgpt.families.baichuan import Baichuan
from slimgpt.families.base import Config, Family, WeightSource, refuse
from slimgpt.families.llama import Llama
from slimgpt.families.mistral import Mistral
from slimgpt.families.qwen import Qwen2, Qwen3

FAMILIES: tuple[Family, ...] = (Llama(), Mistral(), Qwen2(), Qwen3(), Baichuan())

__all__ = ["FAMILIES", "Config", "Family", "WeightSource", "family_of"]


def family_of(config: Config, *, quantized: bool = False) -> Family:
    """The adapter of a config.json, stock or pruned.

    Args:
        config: as the file has it.
        quantized: take quantised weights too, of which only the shape is wanted.

    Raises:
        UsageError: another architecture, or weights that are quantised already.
    """
    model_type = config.get("model_type")
    named = config.get("architectures") or ["no architecture"]
    for family in FAMILIES:
        if model_type not in (family.model_type, family.pruned_model_type):
            continue
        known = (family.architecture, family.pruned_architecture, *family.aliases)
        if config.get("architectures") and named[0] not in known:
            break
        if config.get("quantization_config") and not quantized:
            raise refuse(f"{named[0]} with quantization_config: prune first, quantise after")
        return family
    raise refuse(f"unsupported architecture {named[0]} (model_type {model_type!r})")
