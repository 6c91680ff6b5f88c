"""Counts of a shape against the real models' tensors."""

from __future__ import annotations

import pytest

from slimgpt.shape import LayerShape, ModelShape

LLAMA_7B = ModelShape(4096, 128, 32000, (LayerShape(32, 32, 11008),) * 32)
LLAMA_3_8B = ModelShape(4096, 128, 128256, (LayerShape(32, 8, 14336),) * 32)
QWEN2_05B = ModelShape(
    896, 64, 151936, (LayerShape(14, 2, 4864),) * 24, tied_embeddings=True, qkv_bias=True
)
QWEN3_06B = ModelShape(
    1024, 128, 151936, (LayerShape(16, 8, 3072),) * 28, tied_embeddings=True, qk_norm=True
)


@pytest.mark.parametrize(
    ("shape", "published"),
    [
        (LLAMA_7B, 6_738_415_616),
        (LLAMA_3_8B, 8_030_261_248),
        (QWEN2_05B, 494_032_768),
        (QWEN3_06B, 596_049_920),
    ],
    ids=["Llama-7B", "Llama-3-8B", "Qwen2-0.5B", "Qwen3-0.6B"],
)
def test_parameters_are_the_published_counts(shape, published):
    assert shape.parameters == published


def test_kv_bytes_are_summed_over_layers():
    assert LLAMA_3_8B.kv_bytes_per_token(2) == 131_072
    uneven = ModelShape(64, 8, 10, (LayerShape(4, 2, 8), LayerShape(0, 0, 8), LayerShape(6, 3, 0)))
    assert uneven.kv_bytes_per_token(2) == 2 * 8 * 2 * (2 + 0 + 3)


def test_an_absent_sub_block_has_no_parameters_and_no_norm():
    shape = ModelShape(64, 8, 10, (LayerShape(4, 2, 8),))
    attention = shape.layer_parameters(LayerShape(4, 2, 0))
    ffn = shape.layer_parameters(LayerShape(0, 0, 8))
    assert shape.layer_parameters(LayerShape(0, 0, 0)) == 0
    assert attention + ffn == shape.layer_parameters(LayerShape(4, 2, 8))


def test_decode_at_one_token_costs_what_prefill_of_one_token_costs():
    assert LLAMA_7B.decode_flops(1) == LLAMA_7B.prefill_flops(1)


def test_prefill_of_a_short_text_costs_about_two_flops_a_weight_and_token():
    matrices = LLAMA_7B.decoder_parameters
    assert LLAMA_7B.prefill_flops(100) == pytest.approx(2 * matrices * 100, rel=0.02)


@pytest.mark.parametrize("widths", [(3, 2, 8), (4, 0, 8), (0, 2, 8), (-1, -1, 8), (4, 4, -1)])
def test_widths_that_no_layer_can_have_are_refused(widths):
    with pytest.raises(ValueError, match=r"heads|negative"):
        LayerShape(*widths)


def test_only_equal_and_complete_layers_are_uniform():
    assert LLAMA_7B.is_uniform
    assert not ModelShape(64, 8, 10, (LayerShape(0, 0, 8),) * 2).is_uniform
    assert not ModelShape(64, 8, 10, (LayerShape(4, 2, 8), LayerShape(4, 2, 7))).is_uniform
