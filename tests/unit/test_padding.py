"""Zero padding: every query head keeps its KV head, at the least cost; nothing else is moved."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import UsageError
from slimgpt.families import family_of
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_export.layout import Layout, copies, plan_layout, query_slots
from slimgpt_export.padding import pad_layer

HIDDEN, HEAD_DIM = 64, 8
Widths = list[tuple[int, int, int]]


def meta(kind: str, widths: Widths, **config: Any) -> ConfigOnly:
    """A model of these (query heads, KV heads, FFN neurons), of which there is only a config."""
    stock = {
        "model_type": kind,
        "vocab_size": 32,
        "hidden_size": HIDDEN,
        "head_dim": HEAD_DIM,
        "num_hidden_layers": len(widths),
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 96,
        **config,
    }
    family = family_of(stock)
    shape = family.shape(stock).with_layers(tuple(LayerShape(*x) for x in widths))
    values = family.per_layer_config(stock, shape)
    return ConfigOnly(Path("MODEL"), values, family, shape, "float32", values["model_type"])


def planned(kind: str, widths: Widths, **config: Any) -> Layout:
    return plan_layout(meta(kind, widths, **config))


@pytest.mark.parametrize("kv_heads", [1, 2, 3])
@pytest.mark.parametrize("group_size", [1, 2, 3, 5])
@pytest.mark.parametrize("group", [1, 2, 3, 4, 6])
def test_every_query_head_stays_with_its_kv_head(kv_heads, group_size, group):
    layer = LayerShape(kv_heads * group_size, kv_heads, 1)
    slots, times = query_slots(layer, group), copies(layer, group)
    assert len(set(slots)) == layer.query_heads, "two heads in one place"
    assert max(slots) < kv_heads * times * group
    for head, slot in enumerate(slots):
        # transformers' query head `slot` uses KV head slot // group, one of `times` copies in a row
        assert slot // group // times == head // group_size


PLANS = [
    # the most of each width; head counts that hold every layer
    ("llama", [(8, 8, 96), (5, 5, 40)], (8, 8, 96)),
    ("mistral", [(6, 6, 9), (5, 5, 40)], (6, 6, 40)),
    # grouped: KV heads alike, groups of 4, 3 and 1
    ("mistral", [(8, 2, 96), (6, 2, 96), (2, 2, 96)], (8, 2, 96)),
    # a KV head of one layer stands twice rather than that all groups are of 4
    ("mistral", [(4, 4, 9), (4, 1, 9), (4, 4, 9)], (4, 4, 9)),
    ("mistral", [(6, 3, 9), (4, 1, 9)], (6, 3, 9)),
    # groups of 3 need 6 query heads, which Mistral takes and Llama does not
    ("llama", [(6, 2, 9), (3, 1, 9)], (6, 2, 9)),
    # absent sub-blocks need nothing
    ("llama", [(0, 0, 40), (4, 4, 0), (0, 0, 0)], (4, 4, 40)),
    # a Qwen2 of 8 heads stays one; of 4 it becomes a Llama
    ("qwen2", [(8, 2, 9), (6, 2, 9)], (8, 2, 9)),
    ("qwen2", [(4, 2, 9), (2, 2, 9)], (4, 2, 9)),
    ("qwen3", [(6, 2, 9), (3, 1, 9)], (6, 2, 9)),
]


@pytest.mark.parametrize(("kind", "widths", "expected"), PLANS, ids=str)
def test_the_widths_are_those_that_every_layer_fits_into(kind, widths, expected):
    layout = planned(kind, widths)
    assert set(layout.shape.layers) == {LayerShape(*expected)}


def fits(layer: LayerShape, kv_heads: int, group: int) -> bool:
    return not layer.has_attention or layer.kv_heads * copies(layer, group) <= kv_heads


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "widths",
    [
        [(8, 4, 9), (7, 1, 9)],
        [(9, 3, 9), (5, 5, 9), (4, 2, 9)],
        [(2, 2, 9), (6, 1, 9), (4, 2, 9)],
        [(7, 7, 9), (1, 1, 9)],
    ],
    ids=str,
)
def test_no_other_head_counts_cost_less(kind, widths):
    layout = planned(kind, widths)
    chosen = layout.shape.layers[0]
    classes = {
        "llama": lambda q: True,  # what Llama refuses, Mistral takes
        "mistral": lambda q: True,
        "qwen2": lambda q: q * HEAD_DIM == HIDDEN or HIDDEN % q == 0,
        "qwen3": lambda q: True,
    }
    layers = [LayerShape(*x) for x in widths]
    for kv_heads, group in product(range(1, 33), range(1, 33)):
        if all(fits(x, kv_heads, group) for x in layers) and classes[kind](kv_heads * group):
            assert chosen.query_heads + chosen.kv_heads <= kv_heads * group + kv_heads


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ([(3, 1, 9), (2, 2, 9)], (4, 2, 9)),  # as good as (3, 3)
        ([(6, 1, 9), (4, 4, 9)], (8, 4, 9)),  # as good as (6, 6)
        ([(7, 1, 9), (3, 3, 9)], (9, 3, 9)),  # as good as (8, 4)
    ],
    ids=str,
)
def test_of_equal_cost_the_fewest_kv_heads_are_taken(widths, expected):
    assert planned("mistral", widths).shape.layers[0] == LayerShape(*expected)


def test_a_config_that_was_changed_says_by_which_transformers():
    """Else transformers warns of the tokenizer of a Mistral that an older version wrote."""
    changed = planned("llama", [(6, 6, 9)] * 2, transformers_version="4.30.0").config
    assert changed["transformers_version"] == transformers.__version__


def test_layers_of_one_width_are_left_as_they_are():
    layout = planned("llama", [(4, 2, 40)] * 3)
    assert not layout.padded
    assert layout.architecture == "LlamaForCausalLM"


CLASSES = [
    ("llama", {}, (4, 4, 9), "LlamaForCausalLM"),
    ("llama", {}, (6, 6, 9), "MistralForCausalLM"),
    ("llama", {"attention_bias": True}, (4, 4, 9), "LlamaForCausalLM"),
    ("mistral", {"sliding_window": 7}, (6, 6, 9), "MistralForCausalLM"),
    ("qwen2", {}, (8, 2, 9), "Qwen2ForCausalLM"),
    ("qwen2", {}, (4, 2, 9), "LlamaForCausalLM"),
    ("qwen3", {}, (6, 2, 9), "Qwen3ForCausalLM"),
]


@pytest.mark.parametrize(("kind", "config", "widths", "architecture"), CLASSES, ids=str)
def test_a_model_becomes_the_class_that_holds_it(kind, config, widths, architecture):
    layout = planned(kind, [widths] * 2, **config)
    assert layout.architecture == architecture
    assert not layout.padded
    assert "per_layer_config" not in layout.config


@pytest.mark.parametrize(
    ("kind", "config"), [("llama", {"attention_bias": True}), ("llama", {"mlp_bias": True})]
)
def test_biases_with_a_head_count_that_llama_refuses_are_padded_to_one_it_takes(kind, config):
    layout = planned(kind, [(6, 6, 9)] * 2, **config)
    assert layout.padded
    assert layout.architecture == "LlamaForCausalLM"
    assert layout.shape.layers[0] == LayerShape(8, 8, 9)


def test_a_qwen2_that_llama_refuses_is_padded_and_stays_a_qwen2():
    layout = planned("qwen2", [(6, 2, 9)] * 2)
    assert layout.architecture == "Qwen2ForCausalLM"
    assert layout.shape.layers[0] == LayerShape(8, 2, 9)


def test_a_qwen2_with_a_window_on_all_layers_keeps_it():
    window: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 7}
    window["layer_types"] = ["sliding_attention"] * 2
    layout = planned("qwen2", [(4, 2, 9)] * 2, **window)
    assert layout.architecture == "Qwen2ForCausalLM", "a Llama has no windows"
    assert layout.family.sliding_window(layout.config, 0) == 7
    assert layout.shape.layers[0] == LayerShape(8, 2, 9)


def test_a_llama_that_was_a_qwen2_keeps_no_word_of_windows():
    """vLLM takes `sliding_window` of any config.json, and Qwen2's has one that is not in use."""
    layout = planned("qwen2", [(4, 2, 9)] * 2, use_sliding_window=False, sliding_window=4096)
    assert not {"sliding_window", "use_sliding_window", "layer_types"} & set(layout.config)


@pytest.mark.parametrize("widths", [(8, 8, 96), (4, 2, 9)])
def test_a_llama_keeps_no_word_of_windows_either(widths):
    """transformers' Llama has none, and vLLM's takes what is in the file."""
    windows = {"sliding_window": 7, "layer_types": ["sliding_attention"] * 2}
    assert not windows.keys() & planned("llama", [widths] * 2, **windows).config.keys()


STRAY: dict[str, Any] = {
    "bias": True,
    "qkv_bias": True,
    "logit_scale": 0.5,
    "target_layer_count": 9,
}
STRAY |= {"llama_4_scaling": {"beta": 1}, "ada_rms_norm_t_cond": True, "qk_norm": True}


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_vllm_alone_would_read_is_left_out(kind):
    """transformers ignores these, and it is what the logits are compared in."""
    for layout in (planned(kind, [(4, 2, 9)] * 2, **STRAY), planned(kind, [(8, 8, 96)], **STRAY)):
        assert not STRAY.keys() & layout.config.keys()
        assert layout.config["hidden_size"] == HIDDEN


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_a_hidden_size_beyond_any_model_is_planned_at_once(kind):
    layout = planned(kind, [(6, 2, 9), (3, 1, 9)], hidden_size=2**30)
    assert layout.shape.layers[0] == LayerShape(6, 2, 9)


UNSERVABLE = [
    ("llama", {"hidden_act": "gelu"}, "hidden_act gelu"),
    ("qwen3", {"attention_bias": True}, "attention_bias"),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
        "sliding windows on some layers alone",
    ),
]


@pytest.mark.parametrize(("kind", "config", "says"), UNSERVABLE, ids=lambda x: str(x)[:20])
def test_what_stock_vllm_gets_wrong_is_refused(kind, config, says):
    with pytest.raises(UsageError, match=f"{says}.*it can't be exported as stock"):
        planned(kind, [(8, 2, 9)] * 2, **config)


@pytest.mark.parametrize(
    ("widths", "says"),
    [([(0, 0, 9)] * 2, "has attention"), ([(4, 4, 0)] * 2, "has a feed-forward block")],
)
def test_a_sub_block_that_no_layer_has_is_refused(widths, says):
    with pytest.raises(UsageError, match=f"no layer of MODEL {says}"):
        planned("llama", widths)


def random_layer(shape: ModelShape, layer: LayerShape, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(size, generator=generator)
        for name, size in shape.layer_tensors(layer).items()
    }


def test_a_layer_that_needs_no_padding_is_handed_on(subtests):
    layout = planned("llama", [(4, 2, 9), (2, 2, 9)], attention_bias=True)
    tensors = random_layer(layout.shape, layout.shape.layers[0])
    padded = pad_layer(tensors, layout.shape.layers[0], layout.shape, torch.float32)
    assert list(padded) == list(tensors)
    for name, tensor in padded.items():
        with subtests.test(name):
            assert tensor is tensors[name]


def test_what_is_added_is_zero_and_what_was_there_is_unchanged():
    """Sums of absolute values: nothing lost, nothing added but copies of KV heads."""
    layout = planned("llama", [(8, 2, 20), (3, 1, 13)], attention_bias=True, mlp_bias=True)
    source, target = layout.source.layers[1], layout.shape.layers[0]
    assert target == LayerShape(8, 2, 20)
    tensors = random_layer(layout.source, source)
    padded = pad_layer(tensors, source, layout.shape, torch.float32)
    for name, size in layout.shape.layer_tensors(target).items():
        assert tuple(padded[name].shape) == size
        torch.testing.assert_close(padded[name].abs().sum(), tensors[name].abs().sum())


def test_a_kv_head_of_too_large_a_group_stands_there_several_times():
    layout = planned("mistral", [(4, 4, 9), (4, 1, 9)])
    source = layout.source.layers[1]
    tensors = random_layer(layout.source, source)
    padded = pad_layer(tensors, source, layout.shape, torch.float32)
    for letter in "kv":
        name = f"self_attn.{letter}_proj.weight"
        for copy in padded[name].split(HEAD_DIM):
            assert torch.equal(copy, tensors[name])
    assert torch.equal(padded["self_attn.q_proj.weight"], tensors["self_attn.q_proj.weight"])


def test_an_absent_layer_becomes_zeros_with_norms_of_ones():
    layout = planned("qwen3", [(4, 2, 9), (0, 0, 0)])
    padded = pad_layer({}, layout.source.layers[1], layout.shape, torch.bfloat16)
    for name, tensor in padded.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, torch.full_like(tensor, float("norm" in name)))
