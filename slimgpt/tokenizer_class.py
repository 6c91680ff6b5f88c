"""Which tokenizer class transformers gives a pruned model type: that of the stock one."""

from __future__ import annotations

from typing import Any

from transformers.models.auto import tokenization_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


def choose_as_stock(model_type: str, config_class: type[Any]) -> None:
    """Lets AutoTokenizer choose as for the stock model type.

    It goes by model type, and overrules the tokenizer_config.json of a Qwen2 that names another
    class: without this, a pruned model would be given other tokens than its source.

    Args:
        model_type: of a pruned architecture, ``slimgpt_llama`` say.
        config_class: what AutoConfig makes of it in this process.
    """
    stock = model_type.removeprefix("slimgpt_")
    known: Any = tokenization_auto.TOKENIZER_MAPPING.get(CONFIG_MAPPING[stock], None)
    if known is not None:
        tokenization_auto.TOKENIZER_MAPPING_NAMES[model_type] = known.__name__
        tokenization_auto.TOKENIZER_MAPPING.register(config_class, known, exist_ok=True)
    if stock in tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS:
        tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.add(model_type)
