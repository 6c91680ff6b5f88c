"""A recovered checkpoint is its source with better projections, and the adapter model merged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import GateMissed, IntegrityError
from slimgpt.progress import Silent
from slimgpt.prune.journal import Journal
from slimgpt.recover.adapter import PROJECTIONS, delta, updated, with_adapter
from slimgpt.recover.merge import compare, merge
from slimgpt.release.manifest import read_manifest
from slimgpt.shape import LayerShape
from tests.masking import stored_tensors
from tests.recovering import QUICK, held_out_loss, quick_collections, run, training
from tests.tiny_models import LENGTH, Tiny, load, logits, random_ids, write_rows

LACKING = (LayerShape(4, 1, 0), LayerShape(0, 0, 61), LayerShape(0, 0, 0), LayerShape(8, 2, 96))
FIRST_LACKS = (LayerShape(0, 0, 50), LayerShape(3, 1, 70), LayerShape(6, 2, 1), LayerShape(3, 1, 9))

CASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "per-layer widths": ("llama-mha", {}),
    "GQA, KV heads pruned": ("mistral", {"kv_heads": "prune", "ratio": 0.4}),
    "GQA, KV heads kept": ("mistral-window", {"kv_heads": "keep"}),
    "absent sub-blocks": ("llama-tied", {"layers": LACKING, "kv_heads": "prune"}),
    "no attention in layer 0": ("qwen3", {"layers": FIRST_LACKS, "kv_heads": "prune"}),
    "biases of every projection": ("llama-biases", {}),
    "biases of q, k and v, tied": ("qwen2", {}),
    "norms of q and k, windows": ("qwen3-windows", {}),
    "stored as bfloat16": ("llama-bfloat16", {}),
    "stored as float16": ("vicuna", {}),
    "a stock model": ("rope-llama3", {"uniform": True, "ratio": 0.5}),
    "a dense model in shards": ("llama-sharded", None),
    "a dense Mistral": ("mistral", None),
}


def source(tiny: Tiny, name: str) -> Path:
    case, pruning = CASES[name]
    dense = tiny.dense(case).path
    return dense if pruning is None else tiny.pruned(dense, **pruning)


def manifest(directory: Path) -> dict[str, Any]:
    found = read_manifest(directory)
    assert found
    return found


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with quick_collections():
        yield


# -- what comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_the_source_with_better_projections(
    tiny: Tiny, tmp_path: Path, rows: Path, name: str
) -> None:
    model, out = source(tiny, name), tmp_path / "out"
    result = run(model, out, rows)
    before, after = stored_tensors(model), stored_tensors(out)
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {
        n: (t.shape, t.dtype) for n, t in before.items() if not n.endswith("inv_freq")
    }
    changed = {n for n, t in after.items() if not torch.equal(t, before[n])}
    assert changed == {n for n in after if n.endswith(tuple(f"{p}.weight" for p in PROJECTIONS))}
    assert same_config(model, out)
    loss = result.quality["held_out_loss"]
    assert loss["after"] < loss["before"]
    assert loss["after"] == pytest.approx(held_out_loss(out, rows), rel=1e-4)
    assert loss["before"] == pytest.approx(held_out_loss(model, rows), rel=1e-4)
    assert not (tmp_path / "out.partial").exists()


def same_config(model: Path, out: Path) -> bool:
    """What both configs say, in the terms of the stock classes."""
    return Checkpoint(model).meta.config == Checkpoint(out).meta.config


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("per-layer widths", 1e-5),
        ("absent sub-blocks", 1e-5),
        ("stored as float16", 2e-3),
        ("stored as bfloat16", 2e-2),
    ],
)
def test_the_merged_model_is_the_adapter_model(
    tiny: Tiny, tmp_path: Path, rows: Path, name: str, tolerance: float
) -> None:
    """Trained once more by itself, its logits are those of what was published."""
    model, text = source(tiny, name), random_ids(2, LENGTH, seed=5)
    check = run(model, tmp_path / "out", rows).quality["merged"]
    assert check["largest_logit_difference"] <= tolerance * check["largest_logit"]
    assert check["exact_difference"] <= 1e-5 * check["largest_logit"]
    again = training(model, tmp_path / "training", rows)
    again.run()
    beside = logits(again.adapted(), text)
    difference = (logits(load(tmp_path / "out", torch.float32), text) - beside).abs().max()
    assert difference <= tolerance * beside.abs().max()


def test_a_merge_that_went_wrong_is_found() -> None:
    adapter = random_ids(5, 7).float()
    for dtypes, allowed in ((["float32"], 1e-3), (["float32", "bfloat16"], 1e-1)):
        limit = allowed * float(adapter.max())
        assert compare(adapter, adapter, adapter + 0.9 * limit, *dtypes).tokens == 5
        with pytest.raises(IntegrityError, match="is not the one that was trained"):
            compare(adapter, adapter, adapter + 1.1 * limit, *dtypes)
        with pytest.raises(IntegrityError, match="is not the one that was trained"):
            compare(adapter, adapter, adapter * torch.nan, *dtypes)


def with_updates(model: Path, size: float) -> Any:
    """A model with random updates on all projections, as if it had been trained."""
    adapted = with_adapter(load(model, torch.float32), QUICK)
    generator = torch.Generator().manual_seed(0)
    for name, p in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, std=size, generator=generator)
    return adapted


def test_updates_beyond_the_stored_type_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.dense("llama-sharded").path
    journal = Journal(tmp_path / "out")
    journal.open({}, fresh=False)
    with closing(journal), pytest.raises(GateMissed, match=r"overflows torch.float16 when merged"):
        merge(Checkpoint(model), with_updates(model, 200.0), journal, Silent())


def test_updates_of_another_model_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    dense = tiny.dense("llama-tied").path
    whole = LayerShape(8, 2, 96)
    lacking = tiny.pruned(dense, layers=(whole, whole, whole, LayerShape(8, 2, 0)))
    journal = Journal(tmp_path / "out")
    journal.open({}, fresh=False)
    says = "the update of model.layers.3.mlp.down_proj.weight belongs to no weight"
    with closing(journal), pytest.raises(IntegrityError, match=says):
        merge(Checkpoint(lacking), with_updates(dense, 0.1), journal, Silent())


def test_updates_are_pefts_own(tiny: Tiny) -> None:
    model = source(tiny, "absent sub-blocks")
    weights = dict(load(model, torch.float32).named_parameters())
    adapted = with_updates(model, 0.3)
    expected = {n: weights[n] + delta(layer) for n, layer in updated(adapted).items()}
    merged = dict(adapted.merge_and_unload().named_parameters())
    assert set(expected) == {n for n in weights if n.split(".")[-2] in PROJECTIONS}
    for name, weight in weights.items():
        torch.testing.assert_close(merged[name], expected.get(name, weight))


# -- what is said of it ----------------------------------------------------------------------------


def test_the_manifest_tells_of_the_dense_model_and_of_all_that_was_done(
    tiny: Tiny, tmp_path: Path, rows: Path
) -> None:
    model = source(tiny, "per-layer widths")
    result = run(model, tmp_path / "out", rows)
    before, after = manifest(model), manifest(tmp_path / "out")
    for key in ("source", "shape", "parameters"):
        assert after[key] == before[key]
    assert after["quality"]["layers"] == before["quality"]["layers"]
    assert after["quality"]["recovery"] == result.quality
    recovery = after["recipe"].pop("recovery")
    assert after["recipe"] == before["recipe"]
    assert (
        recovery["data"]
        == result.data
        == {
            "sources": ["rows.jsonl"],
            "examples": 72,
            "held_out": 8,
            "dropped": 0,
            "held_out_tokens": 8 * (LENGTH - 1),
            "sha256": recovery["data"]["sha256"],
        }
    )
    assert recovery["rank"] == 8
    assert set(after["files"]) == {p.name for p in (tmp_path / "out").iterdir()} - {"slimgpt.json"}
    assert str(tmp_path) not in (tmp_path / "out" / "slimgpt.json").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


def test_what_was_measured_before_is_not_claimed_of_the_result(
    tiny: Tiny, tmp_path: Path, rows: Path
) -> None:
    """And a recovery of a recovery is a recovery."""
    run(source(tiny, "per-layer widths"), tmp_path / "once", rows)
    path = tmp_path / "once" / "slimgpt.json"
    judged = json.loads(path.read_text())
    judged["quality"]["texts"] = [{"perplexity": 3.0}]
    judged["recipe"]["evaluation"] = {"texts": []}
    path.write_text(json.dumps(judged))
    run(tmp_path / "once", tmp_path / "twice", rows)
    twice = manifest(tmp_path / "twice")
    assert set(twice["quality"]) == {"layers", "recovery"}
    assert "evaluation" not in twice["recipe"]
    assert twice["source"] == judged["source"]


def test_a_model_without_a_manifest_is_its_own_source(
    tiny: Tiny, tmp_path: Path, rows: Path
) -> None:
    run(source(tiny, "a dense Mistral"), tmp_path / "out", rows, source_name="org/name")
    told = manifest(tmp_path / "out")
    assert told["source"]["name"] == "org/name"
    assert told["parameters"]["before"] == told["parameters"]["after"]
    assert set(told["recipe"]) == {"recovery"}
