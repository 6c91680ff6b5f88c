"""ONNX Runtime GenAI runs what `slimgpt export onnx` writes, and says what transformers says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai
import pytest
import torch

from slimgpt.demo import MODEL
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.shape import LayerShape
from tests.onnx_exports import Exports, opened, prefill_logits
from tests.tiny_models import CALIBRATION, Tiny, load, random_ids

NEW = 24
HOLES = ((0, 0, 40), (6, 2, 0), (0, 0, 0), (4, 2, 17))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without half of its decoder."""
    out = tmp_path_factory.mktemp("halved") / "out"
    prune(MODEL, out, PruneOptions(0.5, device="cpu", activations="memory"), lambda _: CALIBRATION)
    return out


def said_by_genai(export: Path, prompts: np.ndarray[Any, Any]) -> list[list[int]]:
    """Greedy tokens behind prompts of one length, prompts included."""
    model = genai.Model(str(export))
    parameters = genai.GeneratorParams(model)
    length = prompts.shape[1] + NEW
    parameters.set_search_options(max_length=length, batch_size=len(prompts), do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(prompts.astype(np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(i).tolist() for i in range(len(prompts))]


@torch.no_grad()
def said_by_transformers(model: Any, prompts: torch.Tensor, eos: int | None) -> list[list[int]]:
    out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
    )
    return out.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("source", ["dense", "halved"])
@pytest.mark.parametrize("texts", [1, 3])
def test_genai_says_what_transformers_says(
    source: str, texts: int, halved: Path, exports: Exports
) -> None:
    path = halved if source == "halved" else MODEL
    prompts = torch.randint(3, 4096, (texts, 12), generator=torch.Generator().manual_seed(5))
    model = load(path, torch.float32)
    expected = said_by_transformers(model, prompts, model.generation_config.eos_token_id)
    found = said_by_genai(exports.make(path).out, prompts.numpy())
    for row, other in zip(found, expected, strict=True):
        assert row == other[: len(row)]  # a row that ended is filled up differently


def test_genai_reads_the_caches_of_each_layer_where_some_have_none(
    tiny: Tiny, exports: Exports
) -> None:
    layers = tuple(LayerShape(*x) for x in HOLES)
    path = tiny.pruned(tiny.dense("llama-biases").path, layers=layers)
    export = exports.make(path).out
    prompts = random_ids(1, 8, seed=3)
    found = said_by_genai(export, prompts.numpy())[0]
    logits = prefill_logits(opened(export), torch.tensor([found[:-1]]))[0]
    assert found[8:] == logits[7:].argmax(-1).tolist()


def test_genai_reads_the_tokenizer(exports: Exports) -> None:
    export = exports.make(MODEL).out
    tokenizer = genai.Tokenizer(genai.Model(str(export)))
    text = "Once upon a time there was"
    assert tokenizer.decode(tokenizer.encode(text)).strip() == text


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_genai_runs_every_precision_of_cpus(precision: str, exports: Exports) -> None:
    prompts = np.arange(3, 15)[None]
    found = said_by_genai(exports.make(MODEL, precision).out, prompts)[0]
    assert len(found) > prompts.shape[1]
