"""Two widths are timed alike."""

from __future__ import annotations

from typing import Any

import pytest

from slimgpt_bench.roofline import width_cost


def test_a_width_and_its_neighbour_are_timed_over_as_many_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory for 2.1 blocks of the one is memory for 3.1 of the other."""
    copies = []

    def repeats(block: Any) -> int:
        copies.append(len(block._layers))
        return 1

    monkeypatch.setattr(width_cost, "_MOST_BYTES", 2400)
    monkeypatch.setattr(width_cost._Block, "repeats", repeats)
    width_cost.measure_width(width_cost.WidthCostOptions(8, 12, 8, rows=1, layers=32))
    assert copies == [2, 2]
