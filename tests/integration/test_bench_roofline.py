"""What the roofline measures, in processes of its own."""

from __future__ import annotations

from pathlib import Path

from slimgpt_bench.roofline.apart import layer_times, width_cost
from slimgpt_bench.roofline.layer_times import LayerTimesOptions
from slimgpt_bench.roofline.width_cost import WidthCostOptions


def test_every_layer_is_timed(small: Path) -> None:
    found = layer_times(small, LayerTimesOptions(1, 16, steps=2, trials=2, threads=1))
    assert len(found.prefill) == len(found.decode) == 2
    assert min(*found.prefill, *found.decode) > 0


def test_a_wider_block_takes_longer() -> None:
    found = width_cost(WidthCostOptions(64, 1024, 256, rows=32, layers=2, threads=1, rounds=4))
    assert found.ratio > 1.5
    assert found.interval
    assert found.interval[0] <= found.ratio <= found.interval[1]
