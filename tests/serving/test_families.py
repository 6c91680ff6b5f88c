"""Per-layer widths in real vLLM, for every family: tokens, log-probabilities and KV capacity."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slimgpt.shape import LayerShape
from tests.serving.engines import IN_PROCESS, Engines, Question, assert_agrees, kv_tokens
from tests.tiny_models import Tiny, random_ids

pytestmark = [pytest.mark.serving, pytest.mark.slow]

KEEP = ((6, 2, 80), (4, 2, 33), (2, 2, 96), (8, 2, 7))
"""Query heads evenly from every group; 33 and 7 are widths that no kernel likes."""
GROUPS = ((8, 2, 80), (4, 1, 33), (4, 1, 96), (8, 2, 7))
HEADS = ((5, 5, 80), (8, 8, 33), (3, 3, 96), (1, 1, 7))
HOLES = ((0, 0, 80), (4, 2, 0), (0, 0, 0), (6, 2, 64))
"""Layer 0 has no attention, layer 1 no FFN, layer 2 neither."""
NO_FFN = ((4, 2, 0), (6, 2, 0), (2, 2, 0), (4, 2, 0))
SIX = ((4, 2, 80), (2, 2, 33), (6, 2, 96), (4, 2, 7))
SIX_HOLES = ((0, 0, 80), (2, 2, 0), (0, 0, 0), (4, 2, 64))
PROMPTS = [random_ids(n, seed=n).tolist() for n in (5, 17, 40)]
"""Longer than every sliding window of the tiny models, and than the reach of unscaled rope."""


@dataclass(frozen=True)
class Case:
    """A tiny model, and the widths it is pruned to."""

    source: str
    widths: tuple[tuple[int, int, int], ...]
    kv_heads: str = "keep"

    def constraints(self) -> dict[str, Any]:
        return {"kv_heads": "prune"} if self.kv_heads == "prune" else {}


CASES = {
    "llama": Case("llama-mha", HEADS, "prune"),
    "llama-gqa-keep": Case("llama-biases", KEEP),
    "llama-gqa-prune": Case("llama-bfloat16", GROUPS, "prune"),
    "llama-tied-holes": Case("llama-tied", HOLES),
    "llama-no-ffn": Case("llama-tied", NO_FFN),
    "llama-rope-linear": Case("rope-linear", KEEP),
    "llama-rope-yarn": Case("rope-yarn", KEEP),
    "llama-rope-llama3": Case("rope-llama3", KEEP),
    "mistral": Case("mistral", KEEP),
    "mistral-window": Case("mistral-window", KEEP),
    "mistral-window-holes": Case("mistral-window", HOLES),
    "qwen2": Case("qwen2", KEEP),
    "qwen2-holes": Case("qwen2", HOLES),
    "qwen2-windows": Case("qwen2-windows", GROUPS, "prune"),
    "qwen3": Case("qwen3", SIX),
    "qwen3-holes": Case("qwen3", SIX_HOLES),
    "qwen3-windows": Case("qwen3-windows", SIX),
    "qwen3-windows-holes": Case("qwen3-windows", SIX_HOLES),
}
STOCK = {
    "llama-mha": "SlimLlamaForCausalLM",
    "mistral-window": "SlimMistralForCausalLM",
    "qwen2-windows": "SlimQwen2ForCausalLM",
    "qwen3-windows": "SlimQwen3ForCausalLM",
}
"""Dense models that vLLM's own classes can't serve here, and the class of ours that does."""
REFUSED = {"gelu": "llama-gelu"}


@pytest.fixture(scope="session")
def said(engines: Engines, tiny: Tiny) -> dict[str, Any]:
    """Answers of all cases, from one process that starts an engine for each."""

    def make(folder: Path) -> dict[str, Any]:
        models = {
            name: tiny.pruned(
                tiny.dense(case.source).path,
                layers=tuple(LayerShape(*x) for x in case.widths),
                **case.constraints(),
            )
            for name, case in CASES.items()
        } | {name: tiny.pruned(tiny.dense(source).path) for name, source in REFUSED.items()}
        dense = {f"stock-{name}": tiny.dense(name).path for name in STOCK}
        questions = [question(path) for path in models.values()]
        questions += [
            question(dense[f"stock-{name}"], hf_overrides={"architectures": [ours]})
            for name, ours in STOCK.items()
        ]
        models |= dense
        answers, _ = engines.ask(questions)
        paths = {name: str(path) for name, path in models.items()}
        return {"models": paths, "answers": dict(zip(models, answers, strict=True))}

    return dict(engines.once("families", make))


def question(model: Path, **options: Any) -> Question:
    fixed = {"max_model_len": 64, "skip_tokenizer_init": True, **IN_PROCESS}
    return Question(model, PROMPTS, fixed | options)


@pytest.mark.parametrize("name", [*CASES, *(f"stock-{name}" for name in STOCK)])
def test_vllm_says_what_transformers_says(
    name: str, said: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    model, answer = Path(said["models"][name]), said["answers"][name]
    found = assert_agrees(answer["answers"], question(model), model)
    record_property("measured", f"{found}; engine ready in {answer['start_s']:.1f} s")


@pytest.mark.parametrize("name", [n for n in CASES if not re.search(r"qwen\d-windows", n)])
def test_the_kv_capacity_is_the_arithmetic_of_the_shape(name: str, said: dict[str, Any]) -> None:
    # Where some layers have windows and some not, vLLM gives them blocks of separate groups.
    model = Path(said["models"][name])
    kv_heads = sum(kv for _, kv, _ in CASES[name].widths)
    head_dim = json.loads((model / "config.json").read_text())["head_dim"]
    assert said["answers"][name]["kv_tokens"] == kv_tokens(kv_heads, head_dim, block=128)


def test_an_activation_that_vllm_lacks_is_refused_by_name(said: dict[str, Any]) -> None:
    assert "Unsupported activation: gelu" in said["answers"]["gelu"]["refused"]
