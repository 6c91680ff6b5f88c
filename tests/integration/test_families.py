"""The contract of every family: what pruning may and may not change, held on tiny checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.prune.activations import embed
from slimgpt.prune.forward import LayerForward
from slimgpt.prune.run import EMBEDDING
from tests.masking import masked, stored_tensors
from tests.tiny_models import (
    CALIBRATION,
    CASES,
    LENGTH,
    Tiny,
    assert_same,
    load,
    logits,
    random_ids,
)

CPU = torch.device("cpu")
TEXT = random_ids(3, LENGTH, seed=1)

every_family = pytest.mark.parametrize("name", CASES)


def read_config(directory: Path) -> dict[str, object]:
    return json.loads((directory / "config.json").read_text())  # type: ignore[no-any-return]


@every_family
def test_pruning_nothing_is_bit_identical(tiny: Tiny, name: str) -> None:
    dense = tiny.dense(name)
    out = tiny.pruned(dense.path, 0.0)
    before, after = stored_tensors(dense.reference), stored_tensors(out)
    weights = {k for k in before if not k.endswith("inv_freq")}
    assert set(after) == weights
    for key in weights:
        assert after[key].dtype == before[key].dtype
        assert torch.equal(after[key], before[key]), key


@every_family
def test_pruning_nothing_keeps_the_config(tiny: Tiny, name: str) -> None:
    dense = tiny.dense(name)
    source, out = read_config(dense.path), read_config(tiny.pruned(dense.path, 0.0))
    if source["model_type"] == "baichuan":
        del source["auto_map"]
        source |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    assert out == source


@every_family
def test_pruning_changes_only_widths_in_the_config(tiny: Tiny, name: str) -> None:
    """So rope, norms, activation, windows and token ids pass through, in the source's spelling."""
    dense = tiny.dense(name)
    source, out = read_config(dense.path), read_config(tiny.pruned(dense.path))
    changed = {key for key in source.keys() | out.keys() if source.get(key) != out.get(key)}
    assert changed <= {
        "architectures",
        "auto_map",
        "head_dim",
        "intermediate_size",
        "model_type",
        "num_attention_heads",
        "num_key_value_heads",
        "per_layer_config",
    }


@every_family
def test_compacted_equals_masked(tiny: Tiny, name: str) -> None:
    dense = tiny.dense(name)
    out = tiny.pruned(dense.path)
    actual, expected = (logits(m, TEXT) for m in (load(out), masked(dense.reference, out)))
    assert_same(actual, expected)
    unpruned = logits(load(dense.reference), TEXT)
    assert (actual - unpruned).std() > 0.01 * unpruned.std(), "the comparison shows nothing"


@every_family
def test_reload_equals_memory(tiny: Tiny, name: str) -> None:
    out = tiny.pruned(tiny.dense(name).path)
    config = AutoConfig.from_pretrained(out)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    absent, unknown = model.load_state_dict(stored_tensors(out), strict=False)
    assert not unknown
    assert set(absent) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    assert torch.equal(logits(load(out, torch.float32), TEXT), logits(model, TEXT))


@every_family
def test_transformers_saves_and_loads_it_unchanged(tiny: Tiny, name: str, tmp_path: Path) -> None:
    out = tiny.pruned(tiny.dense(name).path)
    dtype = getattr(torch, Checkpoint(out).meta.dtype)
    model = load(out, dtype)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path, dtype), TEXT), logits(model, TEXT))
    assert Checkpoint(tmp_path).shape == Checkpoint(out).shape
    assert Checkpoint(tmp_path).meta.dtype == Checkpoint(out).meta.dtype


@pytest.mark.parametrize("name", ["llama-mha", "llama-biases", "qwen3", "baichuan"])
def test_compensation_beats_truncation_on_the_calibration_text(tiny: Tiny, name: str) -> None:
    """Each kept column was adjusted for its own head or neuron, behind the pruned layers before."""
    dense = tiny.dense(name)
    model = masked(dense.reference, tiny.pruned(dense.path))
    whole = dict(load(dense.reference).named_parameters())
    inputs: dict[str, Tensor] = {}
    for key, module in model.named_modules():
        if key.endswith(("o_proj", "down_proj")):
            module.register_forward_hook(lambda _m, x, _y, key=key: inputs.update({key: x[0]}))
    logits(model, CALIBRATION.windows)
    for key, x in inputs.items():
        compensated = model.get_parameter(f"{key}.weight")
        before = whole[f"{key}.weight"]
        truncated = before * (compensated != 0).any(dim=0)
        if torch.equal(truncated, before):
            continue  # nothing was removed here
        errors = [((w - before) @ x.flatten(0, 1).T).norm() for w in (compensated, truncated)]
        assert errors[0] < errors[1], key


def streamed_states(directory: Path) -> list[Tensor]:
    """Hidden states behind every layer, computed as pruning does: one layer at a time."""
    checkpoint = Checkpoint(directory)
    meta = checkpoint.meta
    forward = LayerForward(meta.family, meta.config, LENGTH, CPU, torch.float64)
    states = embed(TEXT, checkpoint.outer(EMBEDDING), torch.float64, CPU, None)
    outputs = []
    for i in range(len(checkpoint.shape.layers)):
        layer = forward.layer(checkpoint.shape, i, checkpoint.layer(i))
        layer.attend(states)
        layer.feed(states)
        outputs.append(torch.cat([x.clone() for _, x in states]))
    return outputs


def whole_model_states(directory: Path) -> list[Tensor]:
    """The same by the model that transformers loads."""
    model = load(directory)
    outputs: list[Tensor] = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    logits(model, TEXT)
    return outputs


@every_family
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
def test_streamed_layers_equal_the_whole_model(tiny: Tiny, name: str, pruned: bool) -> None:
    dense = tiny.dense(name)
    out = tiny.pruned(dense.path)
    source, reference = (out, out) if pruned else (dense.path, dense.reference)
    for actual, expected in zip(
        streamed_states(source), whole_model_states(reference), strict=True
    ):
        assert_same(actual, expected)


@pytest.mark.parametrize(
    "name",
    [
        "llama-biases",
        "mistral-window",
        "qwen2-windows",
        "qwen3",
        "baichuan",
        "rope-dynamic",
        "rope-yarn",
        "rope-longrope",
    ],
)
def test_what_was_pruned_can_be_pruned_again(tiny: Tiny, name: str) -> None:
    once = tiny.pruned(tiny.dense(name).path)
    twice = tiny.pruned(once, 0.2)
    assert Checkpoint(twice).shape.parameters < Checkpoint(once).shape.parameters
    assert_same(logits(load(twice), TEXT), logits(masked(once, twice), TEXT))
