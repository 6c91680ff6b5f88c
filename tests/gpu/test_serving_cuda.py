"""vLLM on a GPU, with CUDA graphs: per-layer widths against transformers, and KV arithmetic.

Needs vLLM and slimgpt in this environment.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt.loading import load_model
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.engine import Engine
from slimgpt_bench.equality import noise, tie_limit
from slimgpt_bench.probe import random_prompts
from slimgpt_bench.random_model import make_random_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM"),
]

KV_BYTES = 2**30
DENSE = ModelShape(1024, 128, 4096, (LayerShape(8, 8, 2816),) * 4)
WIDTHS = ((8, 8, 2000), (5, 5, 333), (3, 3, 2816), (7, 7, 1024))
SHAPE = DENSE.with_layers(tuple(LayerShape(*x) for x in WIDTHS))
PROMPTS = random_prompts(4, 48, DENSE.vocab_size)
NEW = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "pruned"
    make_random_model(directory, DENSE, SHAPE, context=512, seed=0, device="cuda")
    return directory


@pytest.fixture(scope="module", params=["FLASH_ATTN", "FLASHINFER", "TRITON_ATTN"])
def engine(request: pytest.FixtureRequest, model: Path) -> Iterator[Engine]:
    options = {
        "model": str(model),
        "dtype": "bfloat16",
        "max_model_len": 512,
        "kv_cache_memory_bytes": KV_BYTES,
        "gpu_memory_utilization": 0.01,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "skip_tokenizer_init": True,
        "attention_backend": request.param,
    }
    with Engine(request.param, options, os.environ) as started:
        yield started


@torch.no_grad()
def test_greedy_tokens_with_cuda_graphs_are_transformers(engine: Engine, model: Path) -> None:
    said: dict[str, Any] = engine.generate(PROMPTS, NEW, len(PROMPTS), top=5)[0]
    texts = [[*p, *ids] for p, ids in zip(PROMPTS, said["ids"], strict=True)]
    written = [
        [step[str(i)] for i, step in zip(ids, top, strict=True)]
        for ids, top in zip(said["ids"], said["top"], strict=True)
    ]
    limit = tie_limit("bfloat16", noise(written, [x[-NEW:] for x in engine.score(texts)]))
    reference, _ = load_model(model, device="cuda", dtype="float32")
    for text, logs in zip(texts, written, strict=True):
        ids = torch.tensor([text], device="cuda")
        exact = reference(ids, use_cache=False).logits[0].log_softmax(-1)[-NEW - 1 : -1]
        own = exact.gather(1, ids[0, -NEW:, None])[:, 0]
        assert (exact.max(-1).values - own).max() <= max(limit, 0.05)
        # bfloat16 has 8 bits: 4 layers of it against float32.
        assert (own.cpu() - torch.tensor(logs)).abs().max() <= 0.1


def test_the_kv_cache_holds_what_the_shape_says(engine: Engine) -> None:
    about = engine.ready()
    blocks = KV_BYTES // (SHAPE.kv_bytes_per_token(2) * about["block_tokens"])
    assert about["kv_tokens"] == pytest.approx(blocks * about["block_tokens"], abs=512)
