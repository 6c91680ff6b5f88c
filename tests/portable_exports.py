"""Portable graphs of tiny models, each made once, run by ONNX Runtime as any runtime would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from slimgpt.shape import LayerShape
from slimgpt_export.onnx.build import GRAPH
from slimgpt_export.onnx.portable import Portable, write_portable
from slimgpt_export.onnx.precision import ACTIVATIONS, Name, Precision
from tests.tiny_models import CASES, HIDDEN, ROPES, VOCABULARY, Case, Tiny, randomize, write

WINDOW = 7
WINDOWS = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
LARGE_VOCABULARY = 4096
SWITCH = 16
"""Tokens from where on longrope has other angles."""
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": SWITCH,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0 + i / 2 for i in range(8)],
}


def _rope(kind: str) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **ROPES[kind]}}


OURS = {
    "all-options": Case(
        "llama",
        {
            "num_hidden_layers": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_act": "gelu",
            "head_dim": 16,
            **_rope("yarn"),
        },
    ),
    "tied": Case(
        "llama", {"tie_word_embeddings": True, "vocab_size": LARGE_VOCABULARY, **_rope("llama3")}
    ),
    "bfloat16": Case("llama", dtype=torch.bfloat16),
    "dynamic": CASES["rope-dynamic"],
    "longrope": CASES["rope-longrope"],
}
"""One layer each, unless the entry says otherwise."""

CUT = {
    "first-lacks-attention": (
        "qwen3-windows",
        ((0, 0, 64), (8, 2, 96), (4, 1, 0), (8, 2, 40)),
    ),
    "no-attention": ("llama-tied", ((0, 0, 64),) * 4),
}
"""Pruned: the family, and widths of four layers. The windows change places in the first."""

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_GEMMA = WINDOWS | {"head_dim": 16, "query_pre_attn_scalar": 16, "num_hidden_layers": 2}
FOREIGN: dict[str, dict[str, Any]] = {
    "gemma2": _GEMMA | {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]},
    "gemma3_text": _GEMMA,
    "phi3": {"rope_parameters": LONGROPE, "original_max_position_embeddings": SWITCH},
    "gpt_neox": {},
    "olmo2": {},
    "mamba": {},
    "gpt2": {"max_position_embeddings": 1},
    "mpt": {"d_model": HIDDEN, "n_layers": 1, "n_heads": 4},
}
"""By model type: entries of the configs of models that SlimGPT has no adapter for."""


class Exported:
    """A checkpoint and its graph.

    Attributes:
        source: of the checkpoint.
        folder: of the graph.
        told: what the export says of it.
    """

    def __init__(
        self, source: Path, folder: Path, precision: Name, dtype: torch.dtype | None
    ) -> None:
        folder.mkdir(parents=True)
        self.source, self.folder = source, folder
        self.told = write_portable(source, chosen(precision), folder, dtype=dtype)

    def run(self, ids: Tensor, mask: Tensor, pieces: Sequence[int]) -> Tensor:
        """Logits of texts that are read piece by piece, each on the caches of the one before."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(
            self.folder / GRAPH, options, providers=["CPUExecutionProvider"]
        )
        caches, found, start = _empty_caches(self.told, len(ids)), [], 0
        places = (mask.cumsum(1) - 1).clamp(min=0)
        for end in np.cumsum(pieces).tolist():
            text = {
                "input_ids": ids[:, start:end],
                "attention_mask": mask[:, :end],
                "position_ids": places[:, start:end],
            }
            inputs = caches | {name: value.numpy() for name, value in text.items()}
            logits, *present = session.run(None, inputs)
            caches = dict(zip(caches, present, strict=True))
            found.append(torch.from_numpy(logits))
            start = end
        return torch.cat(found, 1).float()


class Portables:
    """Exports each model once.

    Args:
        root: where checkpoints and graphs go.
        tiny: prunes.
    """

    def __init__(self, root: Path, tiny: Tiny) -> None:
        self._root, self._tiny = root, tiny
        self._made: dict[tuple[str, Name, torch.dtype | None], Exported] = {}

    def make(
        self, name: str, precision: Name = "fp32", dtype: torch.dtype | None = None
    ) -> Exported:
        """The graph of a model in one of the tables above."""
        key = name, precision, dtype
        if key not in self._made:
            folder = self._root / f"graph-{len(self._made)}"
            self._made[key] = Exported(self.source(name), folder, precision, dtype)
        return self._made[key]

    def source(self, name: str) -> Path:
        """The checkpoint of a model."""
        path = self._root / name
        if name in CUT:
            family, widths = CUT[name]
            layers = tuple(LayerShape(*x) for x in widths)
            return self._tiny.pruned(self._tiny.dense(family).path, layers=layers, kv_heads="prune")
        if name in FOREIGN:
            return path if path.exists() else _write_foreign(name, path)
        case = OURS[name]
        if not path.exists():
            write(replace(case, config={"num_hidden_layers": 1} | case.config), path)
        return path / "dense"


def chosen(precision: Name) -> Precision:
    """A precision with nothing but its name."""
    return Precision(precision, ACTIVATIONS.get(precision, "float32"))


@torch.no_grad()
def torch_logits(source: Path, ids: Tensor, pieces: Sequence[int]) -> Tensor:
    """Logits in float32, piece by piece, with transformers' own cache and its own positions."""
    model_type = AutoConfig.from_pretrained(source).model_type
    # Gemma 2 has soft caps, which transformers' default attention leaves out.
    how = {"attn_implementation": "eager"} if model_type == "gemma2" else {}
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **how).eval()
    cache, found = None, []
    for piece in ids.split(list(pieces), 1):
        step = model(piece, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        found.append(step.logits)
    return torch.cat(found, 1)


def _write_foreign(kind: str, folder: Path) -> Path:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | FOREIGN[kind]))
    randomize(model, seed=1)
    model.save_pretrained(folder)
    return folder


def _empty_caches(told: Portable, batch: int) -> dict[str, Any]:
    dtype = np.dtype(told.dtype)
    found = {}
    for i, x in enumerate(told.caches):
        for kind, size in (("key", x.key_dim), ("value", x.value_dim)):
            empty = np.zeros((batch, x.kv_heads, 0, size), dtype)
            found[f"past_key_values.{i}.{kind}"] = empty
    return found
