"""The roofline counts what the widths say, tiles cost what they fill, and names what is uneven."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.accelerators import Accelerator, find
from slimgpt_bench.roofline.floor import Lengths, floor, middle, quantities
from slimgpt_bench.roofline.layer_times import LayerTimes
from slimgpt_bench.roofline.outlook import Model, Outlook, outlook_document
from slimgpt_bench.roofline.products import (
    Numbers,
    decode,
    filled,
    head_product,
    layer_products,
    prefill,
)
from slimgpt_bench.roofline.widths import uneven_widths

HALF = Numbers(2, 2, "bfloat16")
H100 = find("h100")
SMOOTH = Accelerator("smooth", 2**30, 1e9, {"float32": 1e12, "bfloat16": 1e12}, None, 1, "test")
"""A device that computes any width without waste."""
LLAMA = ModelShape(4096, 128, 32000, (LayerShape(32, 32, 11008),) * 4)

widths = st.builds(
    lambda kv, group, ffn: LayerShape(kv * group, kv, ffn),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 400),
)
shapes = st.builds(
    lambda layers: ModelShape(64, 8, 100, tuple(layers)), st.lists(widths, min_size=1, max_size=3)
)


def with_ffn(ffn: int) -> ModelShape:
    return LLAMA.with_layers((LayerShape(32, 32, ffn),) * 4)


def all_products(shape: ModelShape, step: Any, device: Accelerator = SMOOTH) -> list[Any]:
    found = [x for layer in shape.layers for x in layer_products(shape, layer, step, device, HALF)]
    return [*found, head_product(shape, step, device, HALF)]


@settings(deadline=None)
@given(shapes, st.integers(1, 50))
def test_flops_are_those_of_the_shape(shape: ModelShape, tokens: int) -> None:
    assert sum(x.flops for x in all_products(shape, prefill(1, tokens))) == shape.prefill_flops(
        tokens
    )
    assert sum(x.flops for x in all_products(shape, decode(1, tokens))) == shape.decode_flops(
        tokens
    )


@settings(deadline=None)
@given(shapes, st.integers(1, 9), st.integers(1, 50))
def test_a_batch_multiplies_the_work_but_not_the_weights(
    shape: ModelShape, batch: int, tokens: int
) -> None:
    one, many = (all_products(shape, prefill(b, tokens)) for b in (1, batch))
    for a, b in zip(one, many, strict=True):
        assert b.flops == batch * a.flops
        assert b.moved_bytes <= batch * a.moved_bytes


@settings(deadline=None)
@given(shapes, st.integers(1, 50))
def test_a_decode_step_moves_all_weights_and_the_whole_cache(
    shape: ModelShape, context: int
) -> None:
    matrices = sum(
        a * b
        for layer in shape.layers
        for a, b in (x for x in shape.layer_tensors(layer).values() if len(x) == 2)
    )
    least = 2 * (matrices + shape.vocab_size * shape.hidden_size)
    least += context * shape.kv_bytes_per_token(2)
    moved = sum(x.moved_bytes for x in all_products(shape, decode(1, context)))
    activations = moved - least
    assert 0 <= activations < 2 * 20 * len(shape.layers) * (shape.hidden_size + 1000)


@settings(deadline=None)
@given(st.integers(1, 100_000), st.sampled_from([1, 8, 16, 64, 128]))
def test_filling_up_reaches_the_next_multiple(width: int, tile: int) -> None:
    assert width <= filled(width, tile) < width + tile
    assert filled(width, tile) % tile == 0


@settings(deadline=None)
@given(shapes, st.integers(1, 200))
def test_no_time_is_shorter_for_filling_up_tiles(shape: ModelShape, tokens: int) -> None:
    for step in (prefill(2, tokens), decode(2, tokens)):
        found = floor(shape, step, H100, HALF)
        assert all(x >= 0 for x in found.waste)
        smooth = floor(shape, step, replace(H100, tile=1, sms=None), HALF)
        assert not any(smooth.waste)
        assert found.seconds >= smooth.seconds - 1e-15


def test_an_aligned_width_wastes_nothing_and_an_odd_one_does():
    flat = replace(H100, sms=None)
    step = prefill(4, 2048)
    assert floor(with_ffn(11008), step, flat, HALF).waste == (0.0,) * 4
    wasted = floor(with_ffn(10922), step, flat, HALF).waste[0]
    share = wasted / floor(with_ffn(10922), step, flat, HALF).layers[0]
    assert 0 < share < (10944 - 10922) / 10922


def test_partly_filled_waves_cost_a_whole_wave():
    step = prefill(1, 64)  # one row of tiles
    full, over = (with_ffn(64 * n) for n in (66, 67))  # gate and up: 132 and 134 tiles, 132 SMs
    products = [
        next(x for x in layer_products(s, s.layers[0], step, H100, HALF) if x.name == "gate_up")
        for s in (full, over)
    ]
    assert products[0].idle == 1.0
    assert products[1].idle == pytest.approx(2 * 132 / 134)


def test_prefill_is_bound_by_computing_and_decode_by_memory():
    bound = {
        step: {
            x.name: x.memory_bound(H100, "bfloat16")
            for x in layer_products(LLAMA, LLAMA.layers[0], step, H100, HALF)
        }
        for step in (prefill(4, 2048), decode(1, 2048))
    }
    first, later = bound.values()
    assert not any(first[name] for name in ("qkv", "output", "gate_up", "down"))
    assert all(later.values())


def test_the_decode_floor_is_the_textbook_one():
    """LLaMA-7B in 16 bits on an H100: about 4 ms a token (facts: 4.02 at batch 1, context 512)."""
    whole = LLAMA.with_layers(LLAMA.layers * 8)
    found = floor(whole, decode(1, 512), H100, HALF).seconds
    assert found == pytest.approx(4.02e-3, rel=0.02)


def test_layers_without_sub_blocks_cost_nothing_for_them():
    bare = LLAMA.with_layers((LayerShape(0, 0, 0),))
    assert floor(bare, decode(1, 100), H100, HALF).layers == (0.0,)


def test_the_quantities_add_up():
    cell = Lengths(2, 128, 64)
    found = quantities(LLAMA, cell, H100, HALF)
    step = floor(LLAMA, middle(cell), H100, HALF).seconds
    assert found["tpot_s"] == step
    assert found["e2e_s"] == pytest.approx(found["prefill_s"] + 63 * step)
    assert "tpot_s" not in quantities(LLAMA, Lengths(2, 128, 1), H100, HALF)
    apart = quantities(LLAMA, cell, H100, HALF, prompts_together=False)
    assert apart["prefill_s"] == pytest.approx(
        2 * quantities(LLAMA, Lengths(1, 128, 64), H100, HALF)["prefill_s"]
    )


# -- uneven widths ---------------------------------------------------------------------------------


def test_the_costliest_width_comes_first_with_its_neighbours():
    mixed = LLAMA.with_layers(
        (LayerShape(32, 32, 11008), LayerShape(32, 32, 10922), LayerShape(32, 32, 10943))
    )
    found = uneven_widths(mixed, Lengths(4, 2048, 64), replace(H100, sms=None), HALF)
    assert [(x.layer, x.block, x.width, x.wasted) for x in found] == [
        (1, "ffn", 10922, 22),
        (2, "ffn", 10943, 1),
    ]
    worst = found[0]
    assert worst.down
    assert worst.up
    assert (worst.down.width, worst.up.width) == (10880, 10944)
    assert worst.down.parameters == -42 * 3 * 4096
    assert worst.up.parameters == 22 * 3 * 4096
    assert worst.down.prefill_s < 0
    assert worst.up.prefill_s == pytest.approx(0, abs=1e-9)
    assert worst.decode_s == pytest.approx(0, abs=1e-12), "a decode step is bound by memory"


@settings(deadline=None, max_examples=50)
@given(st.lists(widths, min_size=1, max_size=3), st.sampled_from([8, 16, 64]))
def test_neighbours_are_aligned_and_nearest(layers: list[LayerShape], tile: int) -> None:
    shape = ModelShape(64, 8, 100, tuple(layers))
    for found in uneven_widths(shape, Lengths(1, 16, 4), replace(SMOOTH, tile=tile), HALF):
        unit = 8 if found.block == "attention" else 1
        assert found.width * unit % tile
        group = shape.layers[found.layer].group_size if found.block == "attention" else 1
        for other in filter(None, (found.down, found.up)):
            assert other.width * unit % tile == 0
            assert other.width % group == 0
            between = range(min(found.width, other.width) + 1, max(found.width, other.width))
            assert not [x for x in between if x * unit % tile == 0 and x % group == 0]
        assert found.up
        assert found.down is None or found.down.parameters < 0 < found.up.parameters


def test_an_even_model_has_no_uneven_widths():
    assert uneven_widths(LLAMA, Lengths(1, 128, 64), H100, HALF) == []


# -- predicted beside achieved ---------------------------------------------------------------------


def outlook() -> Outlook:
    return Outlook(Model(LLAMA, HALF), Model(with_ffn(5504), HALF), replace(H100, sms=None))


def test_efficiency_is_what_was_achieved_of_what_was_predicted():
    cell = Lengths(1, 128, 64)
    achieved = {"tpot_s": {"ratio": 1.2, "interval": [1.1, 1.3]}}
    found = outlook().cell(cell, achieved)
    told = found["tpot_s"]
    assert told["predicted"] == pytest.approx(told["dense"] / told["pruned"])
    assert told["efficiency"] == pytest.approx(1.2 / told["predicted"])
    assert told["efficiency_interval"] == pytest.approx(
        [1.1 / told["predicted"], 1.3 / told["predicted"]]
    )
    assert found["prefill_s"]["efficiency"] == "insufficient"


def test_what_was_not_resolved_has_no_efficiency():
    nothing = {"ratio": "insufficient", "interval": "insufficient"}
    told = outlook().cell(Lengths(1, 128, 64), {"tpot_s": nothing})["tpot_s"]
    assert told["efficiency"] == told["efficiency_interval"] == "insufficient"


def test_the_document_has_a_row_a_layer_and_what_was_measured_of_it():
    times = LayerTimes((0.2,) * 4, (0.02,) * 4), LayerTimes((0.1,) * 4, (0.01,) * 4)
    found = outlook_document(outlook(), [(Lengths(1, 128, 64), {})], times=times)
    assert len(found["layers"]) == 4
    row = found["layers"][0]
    assert row["dense"]["ffn"] == 11008
    assert row["prefill_s"]["achieved"] == {"dense": 0.2, "pruned": 0.1, "ratio": 2.0}
    assert row["decode_s"]["predicted"]["ratio"] > 1
    assert found["costliest_width"] is None
    assert found["device"]["name"] == "h100-sxm"


def test_layers_that_one_model_lacks_have_one_side():
    fewer = replace(outlook(), pruned=Model(LLAMA.with_layers(LLAMA.layers[:2]), HALF))
    rows = fewer.layers(Lengths(1, 128, 64))
    assert [row["pruned"] is None for row in rows] == [False, False, True, True]
    assert rows[3]["prefill_s"]["predicted"]["ratio"] is None
