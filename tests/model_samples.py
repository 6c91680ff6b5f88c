"""Models as documents tell of them: artefacts, manifests and where they were measured."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

LAYERS = 16


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def environment(**changes: Any) -> dict[str, Any]:
    told = {
        "device": "cpu",
        "cpu": "AMD EPYC 9B14",
        "cores": 2,
        "memory_bytes": 8_320_000_000,
        "system": "Linux-6.1.0-x86_64",
        "python": "3.11.7",
        "versions": {"torch": "2.13.0+cpu", "transformers": "5.19.0", "numpy": "2.4.1"},
        "threads": "1",
        "load_average": [0.4, 0.3, 0.2],
        "commit": "8eb3dcb6a7c0f1d2e3f4a5b6c7d8e9f0a1b2c3d4",
    }
    return told | changes


def shape(kept: float = 1.0, layers: int = LAYERS) -> dict[str, Any]:
    """Widths of a 7 B model; later layers lose more, as with the logarithmic schedule."""

    def share(i: int) -> float:
        return 1 - 2 * (1 - kept) * math.log1p(i) / math.log1p(layers)

    widths = [
        {
            "query_heads": max(1, round(32 * share(i))),
            "kv_heads": max(1, round(32 * share(i))),
            "ffn": round(11008 * share(i)),
        }
        for i in range(layers)
    ]
    return {"hidden_size": 4096, "head_dim": 128, "layers": widths}


def layer_errors(layers: int = LAYERS) -> list[dict[str, Any]]:
    """As the manifest has them: the first layer's attention was not pruned."""
    found = []
    for i in range(layers):
        attention, mlp = 0.02 + 0.004 * i, 0.01 + 0.003 * i
        entry = {"mlp": {"truncated": mlp, "compensated": 0.4 * mlp, "damping": 0.01}}
        if i:
            entry["attention"] = {
                "truncated": attention,
                "compensated": 0.45 * attention,
                "damping": 0.01,
            }
        found.append(entry)
    return found


def quality(perplexity: float, baseline: float = 5.68) -> dict[str, Any]:
    text = {
        "text": "wikitext2",
        "file": "test.txt",
        "sha256": digest("wikitext2"),
        "window": 2048,
        "protocol": "raw",
        "tokens": 341_469,
        "perplexity": perplexity,
        "baseline_perplexity": baseline,
        "kl": 0.31,
        "dtype": "bfloat16",
    }
    return {"layers": layer_errors(), "texts": [text], "tasks": {}}


def artefact(name: str = "llama-7b", kept: float = 1.0, **changes: Any) -> dict[str, Any]:
    parameters = round(6_738_415_616 * (0.04 + 0.96 * kept))
    dense = kept == 1.0
    told = {
        "name": name,
        "form": "checkpoint",
        "digest": digest(name),
        "shape": shape(kept),
        "dense_shape": None if dense else shape(),
        "dtype": "bfloat16",
        "cache_dtype": "bfloat16",
        "parameters": parameters,
        "weight_bytes": 2 * parameters,
        "kv_bytes_per_token": round(524_288 * kept),
        "context_length": 4096,
        "quality": {} if dense else quality(5.68 + 22 * (1 - kept) ** 2),
        "tokenizer_digest": digest("tokenizer"),
    }
    return told | changes


def manifest(kept: float = 0.75) -> dict[str, Any]:
    """slimgpt.json of a pruned checkpoint."""
    return {
        "schema": 1,
        "slimgpt_version": "0.1.0",
        "source": {"name": "llama-7b", "digest": digest("llama-7b"), "shape": shape()},
        "recipe": {"ratio": 1 - kept, "method": "exact", "schedule": "log"},
        "shape": shape(kept),
        "parameters": {
            "before": 6_738_415_616,
            "after": round(6_738_415_616 * kept),
            "decoder_before": 6_476_271_616,
            "decoder_after": round(6_476_271_616 * kept),
        },
        "quality": quality(7.1),
        "gates": [
            {
                "name": "perplexity ratio",
                "measured": 1.25,
                "limit": 1.3,
                "margin": 0.05,
                "unit": "",
                "passed": True,
                "why": "",
            }
        ],
        "environment": {"python": "3.11.7", "device": "cpu"},
        "files": {},
    }


def fixed(document: dict[str, Any]) -> dict[str, Any]:
    """The same whenever and however the test is run."""
    return document | {
        "created": "2026-11-22T12:00:00Z",
        "command": ["slimgpt", "bench", document["kind"]],
    }
