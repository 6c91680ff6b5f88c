"""Query heads stay wired to their own KV head, however scattered the heads are that go."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.prune.cut import KeptHeads, cut_attention
from slimgpt.shape import LayerShape
from tests.masking import kept_units, masked, stored_tensors
from tests.tiny_models import (
    LAYERS,
    LENGTH,
    Case,
    Tiny,
    assert_same,
    load,
    logits,
    random_ids,
    write,
)

TEXT = random_ids(3, LENGTH, seed=1)
GROUPS, GROUP, HEAD_DIM = 4, 4, 8
WIDE = {"num_attention_heads": GROUPS * GROUP, "num_key_value_heads": GROUPS, "head_dim": HEAD_DIM}
"""Attention of 4 groups of 4 query heads, wider than the hidden size."""


def checkpoint_with_useless_heads(path: Path, useless: list[list[int]]) -> Path:
    """A Llama whose layer i hardly uses the query heads ``useless[i]``: any method drops them."""
    dense = write(Case("llama", WIDE), path).path
    tensors = stored_tensors(dense)
    for i, heads in enumerate(useless):
        columns = tensors[f"model.layers.{i}.self_attn.o_proj.weight"].unflatten(1, (-1, HEAD_DIM))
        columns[:, heads] *= 1e-4
    save_file(tensors, dense / "model.safetensors", {"format": "pt"})
    return dense


def kept_heads(dense: Path, pruned: Path, letter: str) -> list[list[int]]:
    """Which heads of q, k or v each layer kept."""
    before, after = stored_tensors(dense), stored_tensors(pruned)
    names = [f"model.layers.{i}.self_attn.{letter}_proj.weight" for i in range(LAYERS)]
    return [kept_units(before[n], after[n], HEAD_DIM) for n in names]


def others(gone: list[list[int]], count: int) -> list[list[int]]:
    return [[i for i in range(count) if i not in heads] for heads in gone]


def assert_compact_equals_masked(dense: Path, pruned: Path) -> None:
    assert_same(logits(load(pruned), TEXT), logits(masked(dense, pruned), TEXT))


def target(dense: Path, query_heads: int, kv_heads: int) -> tuple[LayerShape, ...]:
    """The widths of a checkpoint with other head counts."""
    return tuple(LayerShape(query_heads, kv_heads, x.ffn) for x in Checkpoint(dense).shape.layers)


SCATTERED = [[0, 5, 10, 15], [3, 4, 9, 14], [2, 6, 8, 12], [1, 7, 11, 13]]
"""For each layer one head of every group, at a different place in each."""


@pytest.mark.parametrize("method", ["exact", "slimgpt"])
def test_keep_takes_scattered_heads(tiny: Tiny, tmp_path: Path, method: str) -> None:
    dense = checkpoint_with_useless_heads(tmp_path, SCATTERED)
    out = tiny.pruned(dense, layers=target(dense, 12, 4), method=method, kv_heads="keep")
    assert kept_heads(dense, out, "q") == others(SCATTERED, 16)
    for letter in "kv":
        assert kept_heads(dense, out, letter) == [list(range(GROUPS))] * LAYERS
    assert_compact_equals_masked(dense, out)


@pytest.mark.parametrize("method", ["exact", "slimgpt"])
def test_keep_takes_equally_many_of_each_group(tiny: Tiny, tmp_path: Path, method: str) -> None:
    """Though all that is useless stands in one group: an uneven choice would be wired wrongly."""
    useless = [list(range(GROUP * (i % GROUPS), GROUP * (i % GROUPS) + 4)) for i in range(LAYERS)]
    dense = checkpoint_with_useless_heads(tmp_path, useless)
    out = tiny.pruned(dense, layers=target(dense, 8, 4), method=method, kv_heads="keep")
    for heads in kept_heads(dense, out, "q"):
        assert [h // GROUP for h in heads] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert_compact_equals_masked(dense, out)


@pytest.mark.parametrize("method", ["exact", "slimgpt"])
def test_prune_takes_whole_groups_anywhere(tiny: Tiny, tmp_path: Path, method: str) -> None:
    gone = [[1], [3], [0], [2]]
    useless = [[g * GROUP + i for g in groups for i in range(GROUP)] for groups in gone]
    dense = checkpoint_with_useless_heads(tmp_path, useless)
    out = tiny.pruned(dense, layers=target(dense, 12, 3), method=method, kv_heads="prune")
    assert kept_heads(dense, out, "q") == others(useless, 16)
    for letter in "kv":
        assert kept_heads(dense, out, letter) == others(gone, GROUPS)
    assert_compact_equals_masked(dense, out)


def test_prune_leaves_scattered_heads_to_their_groups(tiny: Tiny, tmp_path: Path) -> None:
    dense = checkpoint_with_useless_heads(tmp_path, SCATTERED)
    out = tiny.pruned(dense, layers=target(dense, 8, 2), kv_heads="prune")
    query, kv = kept_heads(dense, out, "q"), kept_heads(dense, out, "k")
    assert query == [[g * GROUP + i for g in groups for i in range(GROUP)] for groups in kv]
    assert_compact_equals_masked(dense, out)


@pytest.mark.parametrize("kv_heads", ["keep", "prune"])
def test_a_ratio_keeps_all_kv_heads_or_all_group_sizes(tiny: Tiny, kv_heads: str) -> None:
    dense = tiny.dense("llama-gelu").path
    out = tiny.pruned(dense, 0.4, kv_heads=kv_heads)
    before, after = Checkpoint(dense).shape.layers, Checkpoint(out).shape.layers
    assert sum(x.query_heads for x in after) < sum(x.query_heads for x in before)
    if kv_heads == "keep":
        assert [x.kv_heads for x in after] == [x.kv_heads for x in before]
    else:
        assert [x.group_size for x in after] == [x.group_size for x in before]
    assert_compact_equals_masked(dense, out)


ATTENTION = {
    "self_attn.q_proj.weight": torch.zeros(32, 64),
    "self_attn.k_proj.weight": torch.zeros(16, 64),
    "self_attn.v_proj.weight": torch.zeros(16, 64),
    "self_attn.o_proj.weight": torch.zeros(64, 32),
}


@pytest.mark.parametrize(
    ("query", "kv"),
    [
        ((0,), (0, 1)),
        ((0, 1, 2), (0, 1)),
        ((0, 1), (0, 1)),
        ((2, 3), (0, 1)),
        ((0, 2), (0,)),
        ((0, 1), (1,)),
        ((2, 3, 0, 1), (0, 1)),
        ((0, 1, 2, 3), (1, 0)),
    ],
)
def test_an_uneven_or_crossed_choice_is_refused(
    query: tuple[int, ...], kv: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"share .* evenly|would attend to KV head"):
        cut_attention(ATTENTION, LayerShape(4, 2, 0), KeptHeads(query, kv), head_dim=8)
