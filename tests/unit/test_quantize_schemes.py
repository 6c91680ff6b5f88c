"""Widths are refused before a weight is read, by the rules of the kernels, with a way out."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgpt.errors import UsageError
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_export.quantize_schemes import (
    GROUP_SIZES,
    RUNS_ON,
    SCHEMES,
    Matrix,
    Target,
    is_padded,
    matrices,
    refusal,
    require_kernels,
)

LAYER = LayerShape(8, 4, 384)


def shape(*layers: LayerShape, hidden: int = 256, head_dim: int = 32) -> ModelShape:
    return ModelShape(hidden, head_dim, 512, layers or (LAYER,))


def target(scheme: str, group_size: int = 128, runs_on: str = "gpu", parts: int = 1) -> Target:
    return Target(SCHEMES[scheme], group_size, runs_on, parts)


def test_matrices_are_fused_as_vllm_does():
    assert matrices(shape()) == [
        Matrix(0, "q/k/v_proj", 256, 256 + 2 * 128),
        Matrix(0, "o_proj", 256, 256),
        Matrix(0, "gate/up_proj", 256, 2 * 384),
        Matrix(0, "down_proj", 384, 256),
    ]


def test_matrices_are_those_of_one_device():
    found = {m.name: (m.inputs, m.outputs) for m in matrices(shape(), tensor_parallel=2)}
    assert found == {
        "q/k/v_proj": (256, 256),
        "o_proj": (128, 256),
        "gate/up_proj": (256, 384),
        "down_proj": (192, 256),
    }


def test_each_device_keeps_a_whole_kv_head_where_there_are_fewer_than_devices():
    [qkv, *_] = matrices(shape(LayerShape(8, 2, 384)), tensor_parallel=8)
    assert qkv.outputs == 32 + 2 * 32


def test_absent_sub_blocks_have_no_matrices():
    layers = LayerShape(0, 0, 384), LayerShape(8, 4, 0), LayerShape(0, 0, 0)
    assert [(m.layer, m.name) for m in matrices(shape(*layers))] == [
        (0, "gate/up_proj"),
        (0, "down_proj"),
        (1, "q/k/v_proj"),
        (1, "o_proj"),
    ]


@pytest.mark.parametrize("ffn", [1, 72, 200, 333])
@pytest.mark.parametrize("asked", [target("fp8"), target("w8a8"), target("fp8", runs_on="cpu")])
def test_kernels_that_pad_take_every_width(asked: Target, ffn: int):
    require_kernels(shape(LayerShape(3, 3, ffn)), asked)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_int4_takes_whole_groups(group_size: int):
    asked = target("w4a16", group_size)
    assert refusal(Matrix(0, "down_proj", 3 * group_size, 7), asked) is None
    assert refusal(Matrix(0, "down_proj", 3 * group_size + group_size // 2, 7), asked)


def test_int4_on_cpus_takes_multiples_of_32_both_ways():
    asked = target("w4a16", 32, "cpu")
    assert refusal(Matrix(0, "x", 64, 96), asked) is None
    assert "multiples of 32" in str(refusal(Matrix(0, "x", 64, 80), asked))


@pytest.mark.parametrize("ffn", [192, 64, 320, 333])
def test_int8_on_cpus_loads_what_amx_packs_or_leaves_to_onednn(ffn: int):
    require_kernels(shape(LayerShape(8, 8, ffn)), target("w8a8", runs_on="cpu"))


@pytest.mark.parametrize("ffn", [200, 72])
def test_int8_on_cpus_refuses_half_tiles(ffn: int):
    """Expected N == BLOCK_N, as vLLM says it at load."""
    asked = target("w8a8", runs_on="cpu")
    with pytest.raises(UsageError, match=r"layer 0 gate/up_proj writes .* with AMX does not take"):
        require_kernels(shape(LayerShape(8, 8, ffn)), asked)


def test_the_message_names_layer_width_rule_and_ways_out():
    layers = LAYER, LayerShape(6, 3, 384), LayerShape(8, 4, 200)
    with pytest.raises(UsageError) as refused:
        require_kernels(shape(*layers), target("w4a16"))
    assert str(refused.value) == (
        "--scheme w4a16: layer 1 o_proj reads 192 values, no multiple of --group-size 128 (and 1 "
        "more like it): give --scheme fp8 or w8a8, or a MODEL made with slimgpt prune --align 64 "
        "and --group-size 64"
    )


def test_a_smaller_group_is_offered_where_it_fits():
    with pytest.raises(UsageError, match=r"give --group-size 64, or --scheme fp8 or w8a8$"):
        require_kernels(shape(LayerShape(6, 3, 320)), target("w4a16"))


def test_align_is_offered_where_the_ffn_alone_is_in_the_way():
    with pytest.raises(UsageError, match=r"MODEL made with slimgpt prune --align 128$"):
        require_kernels(shape(LayerShape(8, 4, 333)), target("w4a16"))


def test_widths_count_for_each_device():
    asked = target("w4a16")
    require_kernels(shape(), asked)
    with pytest.raises(UsageError, match="down_proj on each of 2 devices reads 192 values"):
        require_kernels(shape(), replace(asked, tensor_parallel=2))
    with pytest.raises(UsageError, match=r"slimgpt prune --align 256$"):
        require_kernels(shape(), replace(asked, tensor_parallel=2))


@pytest.mark.parametrize(
    "layer", [LayerShape(6, 6, 384), LayerShape(8, 8, 382), LayerShape(12, 3, 384)]
)
def test_tensor_parallel_divides_every_layer(layer: LayerShape):
    with pytest.raises(UsageError, match=r"--tensor-parallel 4 does not divide layer 1 .*: prune"):
        require_kernels(shape(LAYER, layer), target("fp8", parts=4))


def test_a_layer_without_attention_splits():
    require_kernels(shape(LayerShape(0, 0, 384), LAYER), target("fp8", parts=4))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (target("w4a16", 48), "--group-size 48: give 32, 64, 128"),
        (target("fp8", 64), "--group-size goes with --scheme w4a16: fp8 has one scale a row"),
        (target("fp8", parts=0), "--tensor-parallel 0: give a positive whole number"),
    ],
)
def test_options_that_no_kernel_knows_are_refused(asked: Target, says: str):
    with pytest.raises(UsageError, match=says):
        require_kernels(shape(), asked)


def test_a_model_without_matrices_is_refused():
    with pytest.raises(UsageError, match="there is nothing to quantise"):
        require_kernels(shape(LayerShape(0, 0, 0)), target("fp8"))


def test_padding_is_counted():
    assert require_kernels(shape(), target("w4a16")) == 0
    assert require_kernels(shape(LayerShape(8, 4, 333)), target("fp8")) == 2
    assert require_kernels(shape(LayerShape(8, 4, 333)), target("fp8", runs_on="cpu")) == 0
    # Marlin: outputs of 64 with inputs of 128, or the other way round.
    assert not is_padded(Matrix(0, "x", 64, 128), target("w4a16", 64))
    assert not is_padded(Matrix(0, "x", 128, 64), target("w4a16", 64))
    assert is_padded(Matrix(0, "x", 64, 64), target("w4a16", 64))


WIDTHS = st.builds(
    lambda kv, group, ffn: LayerShape(kv * group, kv, ffn),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 40).map(lambda n: n * 8),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(WIDTHS, min_size=1, max_size=3),
    st.sampled_from([128, 192, 256]),
    st.sampled_from([16, 32, 64]),
    st.sampled_from(list(SCHEMES)),
    st.sampled_from(GROUP_SIZES),
    st.sampled_from(RUNS_ON),
)
def test_what_is_offered_works(layers, hidden, head_dim, scheme, group_size, runs_on):
    model = shape(*layers, hidden=hidden, head_dim=head_dim)
    group_size = group_size if SCHEMES[scheme].grouped else 128
    asked = target(scheme, group_size, runs_on)
    try:
        require_kernels(model, asked)
    except UsageError as refused:
        said = str(refused).partition(": give ")[2]
        for offer in said.split(", or "):
            group = re.search(r"--group-size (\d+)", offer)
            align = re.search(r"--align (\d+)", offer)
            names = re.search(r"--scheme (\w+)(?: or (\w+))?", offer)
            changed = replace(asked, group_size=int(group[1]) if group else group_size)
            for name in filter(None, names.groups() if names else ()):
                require_kernels(model, target(name, runs_on=runs_on))
            if align:
                step = int(align[1])
                wide = [replace(x, ffn=-(-x.ffn // step) * step) for x in layers]
                require_kernels(model.with_layers(tuple(wide)), changed)
            elif group:
                require_kernels(model, changed)
