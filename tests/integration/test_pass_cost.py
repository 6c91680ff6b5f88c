"""What a training holds for its backward pass, counted tensor by tensor, against the estimate."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from slimgpt.machine_speed import MachineSpeed
from slimgpt.pass_cost import training_activation_bytes, update_values
from slimgpt.recover.adapter import with_adapter
from slimgpt.recover.options import RecoverOptions
from slimgpt.shape import LayerShape, ModelShape

BATCH, TOKENS = 4, 64
GPU = MachineSpeed("cuda", 1e12, 1e12)  # whose allocator holds no more than is in use
LAYERS = {"as many KV heads": LayerShape(8, 8, 352), "grouped heads": LayerShape(8, 2, 352)}


def adapted(layer: LayerShape, count: int) -> tuple[torch.nn.Module, ModelShape]:
    config = LlamaConfig(
        hidden_size=128,
        num_hidden_layers=count,
        vocab_size=256,
        num_attention_heads=layer.query_heads,
        num_key_value_heads=layer.kv_heads,
        intermediate_size=layer.ffn,
    )
    shape = ModelShape(128, 16, 256, (layer,) * count)
    return with_adapter(LlamaForCausalLM(config), RecoverOptions()).train(), shape


def held_bytes(model: torch.nn.Module) -> int:
    """Of all tensors that a forward pass keeps, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(256, (BATCH, TOKENS))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    assert output.logits.requires_grad
    return sum(held.values())


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_what_a_layer_holds_is_what_was_estimated(layer: LayerShape) -> None:
    pytest.importorskip("peft")
    (two, shape), (six, deep) = adapted(layer, 2), adapted(layer, 6)
    counted = held_bytes(six) - held_bytes(two)
    estimated = [
        training_activation_bytes(s, BATCH * TOKENS, recomputes=False, taught=False, machine=GPU)
        for s in (shape, deep)
    ]
    assert estimated[1] - estimated[0] == pytest.approx(counted, rel=0.15)


def test_the_trained_values_are_counted_right() -> None:
    pytest.importorskip("peft")
    model, shape = adapted(LAYERS["grouped heads"], 2)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert update_values(shape, 8) == trained
