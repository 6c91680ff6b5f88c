"""genai_config.json: what ONNX Runtime GenAI (>= 0.15) needs to run the graph. No torch.

GenAI reads one number of KV heads here, and each layer's own from the inputs of the graph.
"""

from __future__ import annotations

from typing import Any

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt_export.onnx.geometry import Geometry, attending

GENAI_CONFIG = "genai_config.json"


def genai_config(meta: ConfigOnly, geometry: Geometry, graph: str, context: int) -> dict[str, Any]:
    """The document.

    Args:
        meta: of the checkpoint.
        geometry: widths of model and graph.
        graph: file name.
        context: most tokens of a text.
    """
    special = special_tokens(meta)
    caches = [layer for _, layer in attending(geometry.graph)]
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": graph,
        "head_size": geometry.graph.head_dim,
        "hidden_size": geometry.graph.hidden_size,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": max((layer.query_heads for layer in caches), default=0),
        "num_hidden_layers": len(caches),  # it counts caches, which absent sub-blocks lack
        "num_key_value_heads": max((layer.kv_heads for layer in caches), default=0),
    }
    return {
        "model": {
            **special,
            "context_length": context,
            "decoder": decoder,
            "type": meta.family.model_type if meta.family.model_type != "baichuan" else "llama",
            "vocab_size": geometry.graph.vocab_size,
        },
        "search": {
            "do_sample": False,
            "max_length": context,
            "num_beams": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    }


def special_tokens(meta: ConfigOnly) -> dict[str, Any]:
    """Ids that begin, end and fill a text; generation_config.json has the last word."""
    path = meta.directory / "generation_config.json"
    generation = read_json(inside(meta.directory, path)) if path.exists() else {}
    found = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = _ids(generation.get(name, meta.config.get(name)), meta.shape.vocab_size)
        if ids:
            several = name == "eos_token_id" and len(ids) > 1
            found[name] = ids if several else ids[0]
    end = found.get("eos_token_id", 0)
    found.setdefault("pad_token_id", end[0] if isinstance(end, list) else end)
    return found


def _ids(value: Any, vocabulary: int) -> list[int]:
    """Ids that the model has: LLaMA's pad_token_id is -1, and others' lies behind the last row."""
    several = value if isinstance(value, list) else [value]
    return [x for x in several if type(x) is int and 0 <= x < vocabulary]
