"""Values that a manifest may hold, the worst names among them, for tests of what is made of it."""

from __future__ import annotations

from typing import Any

from slimgpt.shape import LayerShape, ModelShape

HOSTILE = [
    "a\n---\nlicense: mit\n---\n# b",
    "a | b || c",
    "`code` ``x``",
    "**bold** _it_ __x__ ~~no~~ $$x$$",
    "<img src=x onerror=alert(1)> <!-- x",
    "[link](javascript:x) ![x](y) [x]: y",
    "https://example.org www.example.org",
    "\\| \\",
    "&lt;b&gt; &amp;",
    "\x1b[31mred\x07\x00 \u202eltr \u2028x",
    "- item\n1. item\n# head\n> quote",
    "a: b # c",
    "'\"{}[]&*!|>%@",
    "x" * 5000,
    "\ud800",
    "",
]
RECIPE: dict[str, Any] = {
    "ratio": 0.25,
    "method": "exact",
    "schedule": "log",
    "first_layer_ratio": 0.0625,
    "kv_heads": "prune",
    "align": 1,
    "tensor_parallel": 2,
    "uniform": False,
    "damping": 0.01,
    "dtype": "float32",
    "calibration": {
        "sources": ["c4", "mine.txt"],
        "samples": 128,
        "sequence_length": 256,
        "seed": 7,
        "windows_sha256": "0" * 64,
    },
}
RECOVERY: dict[str, Any] = {
    "data": {"sources": ["alpaca", "own.json"], "examples": 49000},
    "rank": 8,
    "alpha": 16.0,
    "learning_rate": 1e-4,
    "schedule": "cosine",
    "warmup_steps": 10,
    "epochs": 1.0,
    "max_steps": None,
    "batch_size": 64,
    "max_length": 256,
    "distill_weight": 0.5,
    "seed": 3,
}
TEXT: dict[str, Any] = {
    "text": "test.txt",
    "file": "wikitext2/test.txt",
    "sha256": "1" * 64,
    "window": 128,
    "protocol": "paper",
    "how": "lines joined by blank lines, one BOS in front, disjoint windows of 128",
    "perplexity": 15.5,
    "baseline_perplexity": 12.4,
    "kl": 0.21,
    "dtype": "float32",
}
TASK: dict[str, Any] = {
    "acc": 0.71,
    "acc_stderr": 0.008,
    "acc_norm": 0.72,
    "acc_norm_stderr": 0.0079,
    "n": 3270,
    "num_fewshot": 0,
    "limit": None,
    "file": "boolq.test.jsonl",
    "sha256": "2" * 64,
    "protocol": "as lm-eval's boolq",
    "harness": "lm_eval 0.4.13",
    "seed": 0,
    "dtype": "float32",
    "baseline": {"acc": 0.75, "acc_stderr": 0.0076, "acc_norm": 0.76, "acc_norm_stderr": 0.007},
}
QUALITY: dict[str, Any] = {
    "layers": [],
    "recovery": {"held_out_loss": {"before": 1.8, "after": 1.2}},
    "texts": [TEXT],
    "tasks": {"boolq": TASK},
    "accuracy": {
        "metric": "acc",
        "mean": 0.71,
        "baseline_mean": 0.75,
        "ratio": 0.94667,
        "lower": 0.93,
        "upper": 0.96,
        "interval": [0.927, 0.966],
        "confidence": 0.95,
        "tasks": 1,
        "n": 3270,
        "why": None,
    },
}
GATES: list[dict[str, Any]] = [
    {
        "name": "kl[test.txt@128]",
        "measured": 0.21,
        "limit": 0.2,
        "margin": -0.01,
        "passed": False,
        "unit": "nats/token",
        "why": "KL(dense || pruned)",
    },
    {
        "name": "weight_bytes",
        "measured": 0.82,
        "limit": 0.85,
        "margin": 0.03,
        "passed": True,
        "unit": "fraction",
        "why": "100 bytes became 82",
    },
]


def deep(layers: int) -> tuple[ModelShape, ModelShape]:
    """A model of this depth, and what could remain of it."""
    dense = ModelShape(4096, 128, 32000, tuple(LayerShape(32, 8, 11008) for _ in range(layers)))
    kept = [LayerShape(32 - i % 4 * 8, 8 - i % 4 * 2, 9000 + i) for i in range(layers)]
    kept[layers // 2] = LayerShape(0, 0, 0)
    return dense, dense.with_layers(tuple(kept))
