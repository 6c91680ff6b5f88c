"""Estimates follow the work: more text and wider layers cost more, deeper models no more memory."""

from __future__ import annotations

import pytest

from slimgpt.estimate import estimate
from slimgpt.planning import make_plan
from slimgpt.shape import LayerShape, ModelShape


def model(layers: int, ffn: int = 352) -> ModelShape:
    return ModelShape(128, 16, 4096, (LayerShape(8, 8, ffn),) * layers)


def test_work_grows_with_text_and_depth():
    plan, deep = make_plan(model(6), 0.25), make_plan(model(12), 0.25)
    assert estimate(plan, 64, 256, 2).flops < estimate(plan, 128, 256, 2).flops
    ratio = estimate(deep, 64, 256, 2).flops / estimate(plan, 64, 256, 2).flops
    assert ratio == pytest.approx(2, rel=0.1)


def test_memory_follows_the_widest_layer_and_the_text_and_not_the_depth():
    shallow = estimate(make_plan(model(6), 0.25), 64, 256, 2).peak_memory_bytes
    deep = estimate(make_plan(model(60), 0.25), 64, 256, 2).peak_memory_bytes
    wide = estimate(make_plan(model(6, ffn=3520), 0.25), 64, 256, 2).peak_memory_bytes
    long = estimate(make_plan(model(6), 0.25), 128, 256, 2).peak_memory_bytes
    assert shallow == deep < wide
    assert long - shallow == 64 * 256 * 128 * 4


def test_removing_nothing_costs_no_solving():
    assert (
        estimate(make_plan(model(6), 0), 64, 256, 2).flops
        < estimate(make_plan(model(6), 0.25), 64, 256, 2).flops
    )
