"""Where all layers agree, the result is a checkpoint that any tool loads without slimgpt."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, MistralConfig

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.families import family_of
from slimgpt.shape import LayerShape
from tests.masking import masked
from tests.tiny_models import LENGTH, Tiny, assert_same, load, logits, random_ids

TEXT = random_ids(2, LENGTH, seed=1)

# The head count that is left divides the hidden size at 0.5; at 0.25 (6 heads of 64) it does not,
# which LlamaConfig refuses and MistralConfig takes.
STOCK = [
    ("llama-mha", 0.5, "llama"),
    ("llama-mha", 0.25, "mistral"),
    ("llama-bfloat16", 0.25, "mistral"),
    ("llama-biases", 0.5, "llama"),
    ("llama-tied", 0.25, "mistral"),
    ("rope-longrope", 0.25, "mistral"),
    ("old-rope-llama3", 0.25, "mistral"),
    ("vicuna", 0.25, "mistral"),
    ("baichuan", 0.25, "mistral"),
    ("baichuan", 0.5, "llama"),
    ("mistral", 0.25, "mistral"),
    ("mistral-window", 0.25, "mistral"),
    ("qwen2", 0.1, "qwen2"),
    ("qwen2-windows", 0.1, "qwen2"),
    ("qwen3", 0.25, "qwen3"),
    ("qwen3-windows", 0.25, "qwen3"),
]
every_result = pytest.mark.parametrize(("name", "ratio", "model_type"), STOCK)

LOAD_WITHOUT_SLIMGPT = """
import json, sys, torch, transformers
from safetensors.torch import save_file
torch.set_num_threads(1)
ids, out, *checkpoints = sys.argv[1:]
ids = torch.tensor(json.loads(ids))
logits = {}
for path in checkpoints:
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    with torch.no_grad():
        logits[path] = model(ids).logits
assert not [m for m in sys.modules if m.startswith("slimgpt")]
save_file(logits, out)
"""


def uniform(tiny: Tiny, name: str, ratio: float) -> Path:
    return tiny.pruned(tiny.dense(name).path, ratio, uniform=True)


@pytest.fixture(scope="module")
def foreign_logits(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Logits of every result, computed in a process that never imports slimgpt."""
    out = tmp_path_factory.mktemp("foreign") / "logits.safetensors"
    checkpoints = [str(uniform(tiny, name, ratio)) for name, ratio, _ in STOCK]
    arguments = [str(TEXT.tolist()), str(out), *checkpoints]
    subprocess.run([sys.executable, "-c", LOAD_WITHOUT_SLIMGPT, *arguments], check=True)
    return load_file(out)


@every_result
def test_uniform_results_have_a_stock_config(
    tiny: Tiny, name: str, ratio: float, model_type: str
) -> None:
    out = uniform(tiny, name, ratio)
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == model_type
    assert config["architectures"] == [f"{model_type.capitalize()}ForCausalLM"]
    assert "per_layer_config" not in config
    assert "auto_map" not in config
    assert len(set(Checkpoint(out).shape.layers)) == 1


@every_result
def test_uniform_results_load_without_slimgpt(
    tiny: Tiny, name: str, ratio: float, model_type: str, foreign_logits: dict[str, torch.Tensor]
) -> None:
    out = uniform(tiny, name, ratio)
    expected = logits(masked(tiny.dense(name).reference, out), TEXT)
    assert_same(foreign_logits[str(out)], expected)


def test_biases_with_a_head_count_that_llama_refuses_stay_in_our_class(tiny: Tiny) -> None:
    """Mistral takes the head count but has no biases; such a model is not stock."""
    dense = tiny.dense("llama-biases")
    out = uniform(tiny, "llama-biases", 0.25)
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "slimgpt_llama"
    assert Checkpoint(out).shape.is_uniform
    assert_same(logits(load(out), TEXT), logits(masked(dense.reference, out), TEXT))


def test_a_qwen2_whose_heads_do_not_fill_the_hidden_size_stays_in_our_class(tiny: Tiny) -> None:
    """vLLM's Qwen2 would take hidden_size // heads for the width of a head."""
    dense = tiny.dense("qwen2")
    out = uniform(tiny, "qwen2", 0.25)
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "slimgpt_qwen2"
    assert Checkpoint(out).shape.is_uniform
    assert_same(logits(load(out), TEXT), logits(masked(dense.reference, out), TEXT))


def test_what_a_llama_config_leaves_unsaid_means_the_same_as_a_mistral() -> None:
    unsaid: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
    }
    family = family_of(unsaid)
    shape = family.shape(unsaid).with_layers((LayerShape(6, 6, 80),) * 2)
    became = family.pruned_config(unsaid, shape)
    assert became["model_type"] == "mistral"
    llama, mistral = LlamaConfig(**unsaid).to_dict(), MistralConfig(**became).to_dict()
    changed = {key for key in llama.keys() & mistral.keys() if llama[key] != mistral[key]}
    assert changed == {
        "architectures",
        "intermediate_size",
        "model_type",
        "num_attention_heads",
        "num_key_value_heads",
    }
