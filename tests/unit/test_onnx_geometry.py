"""The widths of a graph: what kernels need is added in zeros, and the function stays the same."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad, silu

from slimgpt.errors import UsageError
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_export.onnx.geometry import (
    HEAD_MULTIPLE,
    SMALLEST_BLOCK,
    Geometry,
    attending,
    block_of,
    block_sizes,
    head_slots,
    plan_geometry,
)
from slimgpt_export.onnx.precision import PARTS, Name, Precision
from slimgpt_export.onnx.widening import Widening

INT4, FP32 = Precision("int4"), Precision("fp32")


def model(*layers: LayerShape, hidden: int = 64, head_dim: int = 16) -> ModelShape:
    return ModelShape(hidden, head_dim, 128, layers, qk_norm=True, qkv_bias=True, ffn_bias=True)


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


# -- widths ----------------------------------------------------------------------------------------


def test_what_kernels_can_run_stays_as_it_is() -> None:
    shape = model(LayerShape(4, 2, 96), LayerShape(3, 1, 16))
    for precision in (INT4, FP32):
        geometry = plan_geometry(shape, precision)
        assert geometry.graph == geometry.source == shape
        assert (geometry.added_neurons, geometry.widened_heads) == (0, False)


@given(head_dim=st.integers(1, 40).map(lambda n: 2 * n))
def test_heads_grow_to_the_next_multiple(head_dim: int) -> None:
    geometry = plan_geometry(model(LayerShape(4, 2, 96), head_dim=head_dim), FP32)
    assert geometry.graph.head_dim % HEAD_MULTIPLE == 0
    assert 0 <= geometry.graph.head_dim - head_dim < HEAD_MULTIPLE
    assert geometry.widened_heads == bool(head_dim % HEAD_MULTIPLE)
    assert geometry.graph.layers == geometry.source.layers


@given(ffn=st.integers(0, 300), name=st.sampled_from(("int4", "int8")))
def test_an_ffn_grows_where_its_weights_are_quantised_and_no_block_fits(
    ffn: int, name: Name
) -> None:
    shape = model(LayerShape(4, 2, ffn))
    assert plan_geometry(shape, FP32).graph == shape
    geometry = plan_geometry(shape, replace(INT4, name=name))
    [layer] = geometry.graph.layers
    assert layer.ffn % SMALLEST_BLOCK == 0
    assert geometry.added_neurons == layer.ffn - ffn < 32
    assert (layer.ffn == ffn) == (ffn % SMALLEST_BLOCK == 0)


def test_absent_blocks_stay_absent() -> None:
    shape = model(LayerShape(0, 0, 33), LayerShape(2, 2, 0), head_dim=6)
    graph = plan_geometry(shape, INT4).graph
    assert [(x.has_attention, x.has_ffn) for x in graph.layers] == [(False, True), (True, False)]
    assert [i for i, _ in attending(graph)] == [1]


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_a_hidden_size_that_no_block_divides_is_refused(name: Name) -> None:
    shape = model(LayerShape(4, 2, 96), hidden=72)
    with pytest.raises(UsageError) as refused:
        plan_geometry(shape, replace(INT4, name=name))
    said = str(refused.value)
    assert f"--precision {name}" in said
    assert "hidden size 72" in said
    assert "16, 32, 64, 128, 256" in said
    assert "--precision fp32 or fp16" in said
    assert plan_geometry(shape, FP32).graph == shape


@given(blocks=st.integers(1, 200), asked=st.sampled_from(block_sizes()))
def test_a_block_divides_the_row_and_none_larger_does(blocks: int, asked: int) -> None:
    width = blocks * SMALLEST_BLOCK
    block = block_of(width, asked)
    assert block <= asked
    assert width % block == 0
    assert not [x for x in block_sizes() if block < x <= asked and width % x == 0]


# -- values ----------------------------------------------------------------------------------------


def geometry_of(head_dim: int, ffn: int) -> Geometry:
    return plan_geometry(model(LayerShape(4, 2, ffn), head_dim=head_dim), INT4)


@pytest.mark.parametrize("head_dim", [6, 10, 16, 24])
@pytest.mark.parametrize("ffn", [33, 48])
def test_every_tensor_grows_to_the_graphs_width_and_matrices_shrink_back(
    head_dim: int, ffn: int
) -> None:
    geometry = geometry_of(head_dim, ffn)
    widening = Widening(geometry, 0)
    [before], [after] = geometry.source.layers, geometry.graph.layers
    wide_sizes = geometry.graph.layer_tensors(after)
    for name, size in geometry.source.layer_tensors(before).items():
        tensor = normal(*size)
        wide = widening.widen(name, tensor)
        assert tuple(wide.shape) == wide_sizes[name], name
        values = wide[wide != 0].sort().values
        assert torch.equal(values, tensor[tensor != 0].sort().values), name
        if tensor.dim() == 2:
            assert torch.equal(widening.narrow(name, wide), tensor), name


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Rope: value i together with value i + half."""
    a, b = x.chunk(2)
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()))


@given(head_dim=st.integers(1, 20).map(lambda n: 2 * n), seed=st.integers(0, 99))
def test_turning_a_widened_head_is_widening_a_turned_one(head_dim: int, seed: int) -> None:
    wide = -(-head_dim // HEAD_MULTIPLE) * HEAD_MULTIPLE
    slots = head_slots(head_dim, wide)
    x, angles = normal(head_dim, seed=seed), normal(head_dim // 2, seed=seed + 1)
    widened = torch.zeros(wide).index_copy(0, torch.tensor(slots), x)
    wide_angles = pad(angles, (0, (wide - head_dim) // 2))
    expected = torch.zeros(wide).index_copy(0, torch.tensor(slots), turned(x, angles))
    assert torch.equal(turned(widened, wide_angles), expected)


def rms(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, epsilon)


@pytest.mark.parametrize("head_dim", [6, 24])
def test_the_norm_of_a_widened_head_is_that_of_the_head(head_dim: int) -> None:
    geometry = geometry_of(head_dim, 48)
    widening, wide = Widening(geometry, 0), geometry.graph.head_dim
    weight, x, epsilon = normal(head_dim), normal(head_dim, seed=1) * 1e-2, 1e-4
    slots = head_slots(head_dim, wide)
    widened = torch.zeros(wide).index_copy(0, torch.tensor(slots), x)
    # The builder scales epsilon and attention scores alike: the mean is over more values.
    found = rms(
        widened, widening.widen("self_attn.q_norm.weight", weight), epsilon * head_dim / wide
    )
    expected = rms(x, weight, epsilon) * (wide / head_dim) ** 0.5
    torch.testing.assert_close(found[slots], expected, rtol=1e-5, atol=1e-6)
    assert found.count_nonzero() == head_dim


def test_added_neurons_add_nothing() -> None:
    widening, x = Widening(geometry_of(16, 33), 0), normal(5, 64)
    gate, up, down = normal(33, 64), normal(33, 64, seed=1), normal(64, 33, seed=2)
    names = [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    wide = [widening.widen(n, w) for n, w in zip(names, (gate, up, down), strict=True)]
    outputs = [
        (silu(x.double() @ g.double().T) * (x.double() @ u.double().T)) @ d.double().T
        for g, u, d in ((gate, up, down), wide)
    ]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


# -- precision -------------------------------------------------------------------------------------


def test_parts_at_higher_precision_have_bits_of_their_own() -> None:
    mixed = replace(INT4, higher={"first": 8, "head": None})
    assert [mixed.bits_of(part) for part in (*PARTS, None)] == [8, 4, None, 4]


def test_what_is_not_quantised_has_no_bits() -> None:
    for name in ("fp32", "fp16", "bf16"):
        precision = replace(FP32, name=name)
        assert not precision.quantized
        assert [precision.bits_of(part) for part in (*PARTS, None)] == [None] * 4
    assert [replace(INT4, name=name).bits for name in ("int8", "int4")] == [8, 4]
