"""Shards, blocks and digests on disk."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from slimgpt.checkpoint.writer import assemble, file_digests, shard_plan, write_durably


@pytest.mark.parametrize("sizes", [[], [1], [9, 9, 9], [1, 2, 3, 4, 5], [3, 3, 1, 7, 1]])
def test_shards_keep_order_and_stay_below_the_limit_or_hold_one_block(sizes):
    shards = shard_plan(sizes, 7)
    assert [b for shard in shards for b in shard] == list(range(len(sizes)))
    assert all(sum(sizes[b] for b in shard) <= 7 or len(shard) == 1 for shard in shards)


def test_several_shards_come_with_an_index_that_names_every_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr("slimgpt.checkpoint.writer.SHARD_BYTES", 600)
    blocks, tensors = [], {}
    for i in range(4):
        tensors[f"t{i}"] = torch.full((8, 8), float(i))
        blocks.append(tmp_path / f"{i}.block")
        write_durably(blocks[-1], {f"t{i}": tensors[f"t{i}"]}, {})
    out = tmp_path / "out"
    out.mkdir()
    assemble(blocks, out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert index["metadata"]["total_size"] == 4 * 8 * 8 * 4
    for name, shard in index["weight_map"].items():
        with safe_open(out / shard, framework="pt") as file:
            assert torch.equal(file.get_tensor(name), tensors[name])


def test_digests_leave_out_the_manifest_alone(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b", "slimgpt.json"):
        (tmp_path / name).write_text(name)
    assert sorted(file_digests(tmp_path)) == ["a", "sub/b"]
