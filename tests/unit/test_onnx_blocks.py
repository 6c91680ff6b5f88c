"""Weights in blocks of few bits: the kernels read what was written, and the rounding is good."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimgpt_export.onnx import blocks as module
from slimgpt_export.onnx.blocks import Blocks, as_int8, pack, quantize, unpack
from slimgpt_export.onnx.geometry import block_sizes
from tests.onnx_kernels import gather, matmul

ROWS, WIDTH = 48, 512
BITS, SIZES, SYMMETRIC = (4, 8), block_sizes(), (True, False)
EXACT = 1e-6
"""In standard deviations of the outputs, one sum of 512 products in another order."""

every_layout = [
    pytest.param(bits, size, symmetric, id=f"int{bits}-{size}-{'sym' if symmetric else 'asym'}")
    for bits in BITS
    for size in SIZES
    for symmetric in SYMMETRIC
]


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def squared_error(weight: Tensor, blocks: Blocks) -> Tensor:
    """Of each block, in float64."""
    difference = blocks.dequantized().double() - weight.double()
    errors: Tensor = difference.unflatten(1, (-1, blocks.block_size)).square().sum(2)
    return errors


def fitted(weight: Tensor, bits: int, size: int, *, symmetric: bool) -> Tensor:
    """The plain way: the grid that just holds every value of a block."""
    w = weight.double().unflatten(1, (-1, size))
    levels, middle = 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        scale, low = w.gather(2, w.abs().argmax(2, keepdim=True)) / -middle, -middle
        zero = torch.zeros_like(scale)
    else:
        bottom = w.amin(2, keepdim=True).clamp(max=0)
        scale, low = (w.amax(2, keepdim=True).clamp(min=0) - bottom) / levels, 0
        zero = (-bottom / torch.where(scale == 0, 1, scale)).round()
    scale = scale.float().double()
    q = (w / torch.where(scale == 0, 1, scale) + zero).round().clamp(low, low + levels)
    errors: Tensor = ((q - zero) * scale - w).square().sum(2)
    return errors


@pytest.mark.parametrize(("bits", "size", "symmetric"), every_layout)
def test_the_kernel_computes_with_the_dequantised_weights(
    bits: int, size: int, symmetric: bool
) -> None:
    weight, x = normal(ROWS, WIDTH) * 0.05, normal(3, WIDTH, seed=1)
    blocks = quantize(weight, bits=bits, block_size=size, symmetric=symmetric)
    expected = x @ blocks.dequantized().T
    assert (matmul(x, blocks, 0) - expected).abs().max() < 4 * EXACT * expected.std()


@pytest.mark.parametrize(("bits", "size", "symmetric"), every_layout)
def test_at_accuracy_level_4_inputs_are_rounded_to_int8_and_nothing_else(
    bits: int, size: int, symmetric: bool
) -> None:
    weight, x = normal(ROWS, WIDTH) * 0.05, normal(3, WIDTH, seed=1)
    blocks = quantize(weight, bits=bits, block_size=size, symmetric=symmetric)
    found, whole = matmul(x, blocks, 4), x @ blocks.dequantized().T
    # A value in the middle of two may go either way: of 1,536 that is one at most.
    rounded = as_int8(x, size) @ blocks.dequantized().T
    assert (found - rounded).abs().max() < 4 * EXACT * whole.std()
    assert 1e-3 < (found - whole).abs().max() / whole.std() < 0.05


@pytest.mark.parametrize(("bits", "size", "symmetric"), every_layout)
def test_a_lookup_gives_the_dequantised_rows(bits: int, size: int, symmetric: bool) -> None:
    blocks = quantize(normal(ROWS, WIDTH), bits=bits, block_size=size, symmetric=symmetric)
    ids = torch.tensor([[0, 7, 7], [ROWS - 1, 1, 2]])
    expected = blocks.dequantized()[ids]
    assert (gather(ids, blocks) - expected).abs().max() <= EXACT * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetric", SYMMETRIC)
def test_values_are_rounded_for_the_scales_as_they_are_stored(
    dtype: torch.dtype, symmetric: bool
) -> None:
    weight = normal(ROWS, WIDTH) * 0.01
    blocks = quantize(weight, bits=4, block_size=32, symmetric=symmetric, scale_dtype=dtype)
    assert blocks.scales.dtype == dtype
    step = blocks.scales.float().abs()[:, :, None]
    nearest = blocks.dequantized().unflatten(1, (-1, 32)) - weight.unflatten(1, (-1, 32))
    clipped = (unpack(blocks.values, 4) % 15 == 0).view_as(nearest)
    assert (nearest.abs() <= step / 2 * (1 + 1e-5))[~clipped].all()


def test_the_kernel_takes_half_precision_scales() -> None:
    weight, x = normal(ROWS, WIDTH) * 0.05, normal(3, WIDTH, seed=1).half()
    blocks = quantize(weight, bits=4, block_size=32, symmetric=True, scale_dtype=torch.float16)
    expected = x.float() @ blocks.dequantized().T
    assert (matmul(x, blocks, 0).float() - expected).abs().max() < 5e-3 * expected.std()


# -- how good the rounding is ----------------------------------------------------------------------

ODD_ROWS = {
    "zeros": torch.zeros(1, 32),
    "a constant": torch.full((1, 32), 0.3),
    "a negative constant": torch.full((1, 32), -0.3),
    "one value": torch.eye(32)[:1] * 2,
    "the smallest numbers": torch.full((1, 32), 1e-45),
    "tiny": normal(1, 32) * 1e-38,
    "huge": normal(1, 32) * 1e30,
    "all positive": normal(1, 32).abs() + 5,
    "all negative": -normal(1, 32).abs() - 5,
}


@pytest.mark.parametrize("name", ODD_ROWS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", SYMMETRIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_odd_blocks_stay_numbers_and_within_the_grid(
    name: str, bits: int, symmetric: bool, dtype: torch.dtype
) -> None:
    weight = ODD_ROWS[name]
    made = quantize(weight, bits=bits, block_size=32, symmetric=symmetric, scale_dtype=dtype)
    found = made.dequantized()
    assert found.isfinite().all()
    assert (found.abs() <= weight.abs().max() * 1.2 + 1e-7).all()
    if name != "huge":  # which half-precision scales can't reach
        levels = 2**bits - 1 if not symmetric else 2 ** (bits - 1)
        assert (found - weight).abs().max() <= weight.abs().max() / levels + 1e-7


@pytest.mark.parametrize("symmetric", SYMMETRIC)
def test_blocks_of_zeros_are_zeros_in_the_kernel_too(symmetric: bool) -> None:
    weight = normal(ROWS, WIDTH)
    weight[::2, :64] = 0
    weight[5] = 0
    blocks = quantize(weight, bits=4, block_size=32, symmetric=symmetric)
    found = matmul(torch.eye(WIDTH), blocks, 0).T
    assert found[::2, :64].count_nonzero() == 0
    assert found[5].count_nonzero() == 0


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", SYMMETRIC)
def test_one_outlier_spoils_its_own_block_alone(bits: int, symmetric: bool) -> None:
    weight = normal(8, 256)
    spoiled = weight.clone()
    spoiled[3, 40] = 1000.0
    same, other = (
        quantize(w, bits=bits, block_size=32, symmetric=symmetric).dequantized()
        for w in (weight, spoiled)
    )
    untouched = torch.ones_like(weight, dtype=torch.bool)
    untouched[3, 32:64] = False
    assert torch.equal(same[untouched], other[untouched])
    assert other[3, 40] == pytest.approx(1000.0, rel=1 / 2**bits)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    bits=st.sampled_from(BITS),
    size=st.sampled_from(SIZES),
    symmetric=st.booleans(),
    tail=st.floats(0.0, 4.0),
    scale=st.sampled_from((1e-6, 1e-2, 1.0, 1e3)),
)
def test_the_search_is_never_worse_than_the_fitting_grid(
    seed: int, bits: int, size: int, symmetric: bool, tail: float, scale: float
) -> None:
    weight = normal(3, 2 * size, seed=seed)
    weight = weight.sign() * weight.abs() ** (1 + tail) * scale  # from no outliers to many
    found = squared_error(weight, quantize(weight, bits=bits, block_size=size, symmetric=symmetric))
    plain = fitted(weight, bits, size, symmetric=symmetric)
    assert (found <= plain * (1 + 1e-5) + 1e-30).all()


@pytest.mark.parametrize(("symmetric", "most"), [(True, 6.7e-3), (False, 6.0e-3)])
def test_gaussian_weights_lose_what_is_known_of_four_bits(symmetric: bool, most: float) -> None:
    weight = normal(256, 1024)
    made = quantize(weight, bits=4, block_size=32, symmetric=symmetric)
    relative = float(squared_error(weight, made).sum() / weight.square().sum())
    assert 0.9 * most < relative < most  # the fitting grid loses 7.4e-3 and 6.5e-3


def test_a_matrix_is_the_same_however_many_rows_are_taken_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = normal(100, 64)
    whole = quantize(weight, bits=4, block_size=32, symmetric=False)
    monkeypatch.setattr(module, "_VALUES_AT_A_TIME", 64 * 7)
    parts = quantize(weight, bits=4, block_size=32, symmetric=False)
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(whole.scales, parts.scales)
    assert whole.zero_points is not None
    assert parts.zero_points is not None
    assert torch.equal(whole.zero_points, parts.zero_points)


@given(count=st.integers(1, 33), bits=st.sampled_from(BITS), seed=st.integers(0, 999))
def test_what_is_packed_comes_out_again(count: int, bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(2**bits, (3, count), generator=generator, dtype=torch.uint8)
    packed = pack(values, bits)
    assert packed.shape == (3, math.ceil(count * bits / 8))
    assert torch.equal(unpack(packed, bits)[:, :count], values)
