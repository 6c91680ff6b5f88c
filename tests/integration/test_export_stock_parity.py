"""The check of the logits finds what an export gets wrong, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import slimgpt_export.layout
import slimgpt_export.stock
from slimgpt.checkpoint.reader import read_config
from slimgpt.errors import GateMissed, UsageError
from slimgpt_export.parity import Parity, compare, probe, require_same
from slimgpt_export.stock import StockOptions, export_stock
from tests.recovering import quick_collections
from tests.tiny_models import Tiny


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.mark.parametrize("name", ["mistral-window", "qwen3-windows"])
def test_the_tokens_reach_beyond_a_window(tiny: Tiny, name: str) -> None:
    meta = read_config(tiny.dense(name).path)
    ids = probe(meta, 0)
    assert ids.shape[1] == meta.context_length == 64 > 7
    assert int(ids.max()) < meta.shape.vocab_size
    assert torch.equal(ids, probe(meta, 0))
    assert not torch.equal(ids, probe(meta, 1))


@pytest.mark.parametrize(
    ("window", "context", "tokens"),
    [
        (100, 2000, 164),
        (100, 101, 101),
        (2000, 2000, 96),  # no token is so far from another
        (2**31 - 1, 2**31 - 1, 96),
        (2**20, 2**31 - 1, 96),  # beyond any memory
        (2**15, 2**31 - 1, 2**15 + 64),
        (7, 1, 1),
        (7, None, 96),
    ],
)
def test_the_tokens_are_as_many_as_show_a_window(tiny: Tiny, window, context, tokens) -> None:
    meta = read_config(tiny.dense("mistral-window").path)
    changed = {"sliding_window": window, "max_position_embeddings": context}
    assert probe(replace(meta, config=meta.config | changed), 0).shape == (2, tokens)


def test_a_dropped_window_is_found(tiny: Tiny, tmp_path: Path, monkeypatch) -> None:
    """The one difference that shows only behind the window."""
    plan = slimgpt_export.layout.plan_layout

    def without_window(meta: Any) -> Any:
        layout = plan(meta)
        layout.config["sliding_window"] = None
        return layout

    monkeypatch.setattr(slimgpt_export.stock, "plan_layout", without_window)
    with pytest.raises(GateMissed, match="another function") as missed:
        export_stock(
            tiny.dense("mistral-window").path, tmp_path / "out", StockOptions(device="cpu")
        )
    assert missed.value.measured
    assert missed.value.limit
    assert missed.value.measured > missed.value.limit
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e-2])
def test_a_difference_that_is_no_number_or_large_misses(wrong: float) -> None:
    logits = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    require_same(compare(logits, logits, 4))
    other = logits.clone()
    other[1, 2, 3] += wrong
    with pytest.raises(GateMissed):
        require_same(compare(logits, other, 4))


def test_logits_that_are_all_alike_show_nothing() -> None:
    with pytest.raises(GateMissed):
        require_same(Parity(0.0, 0.0, 8, 4))


def test_mixed_windows_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="windows on some layers alone"):
        export_stock(tiny.dense("qwen3-windows").path, tmp_path / "out", StockOptions())
