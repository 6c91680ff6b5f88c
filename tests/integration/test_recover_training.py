"""How recovery trains: the same update however a batch is split, and the same bytes each time."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.progress import Silent
from slimgpt.recover.data import load_training_data
from slimgpt.recover.training import Training
from slimgpt.release.manifest import read_manifest
from slimgpt.shape import LayerShape
from tests.recovering import (
    QUICK,
    Looks,
    digests,
    held_out_loss,
    quick_collections,
    run,
    training,
)
from tests.tiny_models import LENGTH, Tiny, load, logits, random_ids, write_rows

LACKING = (LayerShape(4, 1, 0), LayerShape(0, 0, 61), LayerShape(0, 0, 0), LayerShape(8, 2, 96))


def source(tiny: Tiny, case: str, **pruning: Any) -> Path:
    return tiny.pruned(tiny.dense(case).path, **pruning)


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


def updates_after(model: Path, directory: Path, rows: Path, **options: Any) -> dict[str, Tensor]:
    """The updates at the last step, which is the only one that is looked at."""
    trained = training(model, directory, rows, dropout=0.0, evaluations=1, **options)
    trained.run()
    return load_file(trained.best)


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny: Tiny, tmp_path: Path) -> None:
    """Rows of 2 to 24 tokens: a mean over micro-batches would weigh tokens unevenly."""
    rows = write_rows(tmp_path / "rows.jsonl", shortest=2)
    model = source(tiny, "llama-mha")
    sizes = {"batch_size": 16, "max_steps": 3, "warmup_steps": 0}
    whole = updates_after(model, tmp_path / "whole", rows, micro_batch=16, **sizes)
    for micro in (4, 1):
        parts = updates_after(model, tmp_path / f"by {micro}", rows, micro_batch=micro, **sizes)
        for name, update in whole.items():
            scale = float(update.abs().max())
            torch.testing.assert_close(parts[name], update, rtol=0, atol=2e-3 * scale)


def test_gradient_checkpointing_gives_the_same_bytes(
    tiny: Tiny, tmp_path: Path, rows: Path
) -> None:
    model = source(tiny, "llama-tied", layers=LACKING, kv_heads="prune")
    run(model, tmp_path / "plain", rows)
    run(model, tmp_path / "less memory", rows, replace(QUICK, gradient_checkpointing=True))
    assert digests(tmp_path / "plain") == digests(tmp_path / "less memory")


def test_equal_runs_give_equal_bytes_and_seeds_differ(
    tiny: Tiny, tmp_path: Path, rows: Path
) -> None:
    model = source(tiny, "mistral-window")
    torch.manual_seed(1)
    run(model, tmp_path / "a", rows)
    torch.manual_seed(2)
    run(model, tmp_path / "b", rows)
    run(model, tmp_path / "c", rows, replace(QUICK, seed=1))
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert a["model.safetensors"] != c["model.safetensors"]


def test_neither_a_launcher_nor_accelerates_settings_change_anything(
    tiny: Tiny, tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = source(tiny, "mistral-window")
    run(model, tmp_path / "alone", rows)
    left = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", "PMI_SIZE": "4"}
    left |= {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_DEEPSPEED": "true"}
    left |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7"}
    left |= {"WANDB_PROJECT": "x", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    run(model, tmp_path / "launched", rows)
    assert digests(tmp_path / "alone") == digests(tmp_path / "launched")


def test_the_dense_model_is_a_teacher(tiny: Tiny, tmp_path: Path) -> None:
    """The divergence from it falls more where it has a say, on rows that were held out."""
    dense = tiny.dense("llama-mha").path
    model, rows = source(tiny, "llama-mha"), tmp_path / "rows.jsonl"
    ids = random_ids(320, LENGTH, seed=9)
    rows.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids.tolist()))
    longer = replace(QUICK, max_steps=20, batch_size=32, micro_batch=32, learning_rate=3e-3)
    run(model, tmp_path / "data alone", rows, longer)
    run(model, tmp_path / "taught", rows, replace(longer, distill_weight=0.9), dense=dense)
    data = load_training_data(Checkpoint(model).meta, [str(rows)], QUICK)
    text = torch.tensor([list(e.ids) for e in data.held_out])
    divergence = {
        name: divergence_from(dense, path, text)
        for name, path in (
            ("before", model),
            ("data alone", tmp_path / "data alone"),
            ("taught", tmp_path / "taught"),
        )
    }
    assert divergence["taught"] < 0.95 * divergence["before"]
    assert divergence["taught"] < 0.95 * divergence["data alone"]
    entry = manifest(tmp_path / "taught")["recipe"]["recovery"]
    assert entry["distilled_from"] == manifest(model)["source"]["digest"]


def divergence_from(dense: Path, model: Path, text: Tensor) -> float:
    """KL(dense || model), nats a token."""
    p, q = (log_softmax(logits(load(path), text), dim=-1) for path in (model, dense))
    return float(kl_div(p, q, reduction="none", log_target=True).sum(-1).mean())


@pytest.mark.parametrize(("name", "dtype"), [("llama-mha", "bfloat16"), ("vicuna", "float16")])
def test_training_in_half_precision(
    tiny: Tiny, tmp_path: Path, rows: Path, name: str, dtype: str
) -> None:
    result = run(source(tiny, name), tmp_path / "out", rows, replace(QUICK, dtype=dtype))
    loss = result.quality["held_out_loss"]
    assert loss["after"] < loss["before"]
    assert manifest(tmp_path / "out")["recipe"]["recovery"]["dtype"] == dtype


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": None, "epochs": 0.5}, 5),  # 72 examples: 9 batches, and 4.5 of them are 5
        ({"max_steps": 13}, 13),  # into the second epoch
        ({"max_steps": 1, "warmup_steps": 0, "evaluations": 10}, 1),
        ({"max_steps": 3, "evaluations": 10}, 3),  # fewer steps than evaluations
        ({"max_steps": None, "batch_size": 32, "micro_batch": 4}, 3),  # the last batch has 8 of 32
    ],
)
def test_steps_of_any_number_are_made(
    tiny: Tiny, tmp_path: Path, rows: Path, options: dict[str, Any], steps: int
) -> None:
    looks = Looks()
    model = source(tiny, "llama-mha")
    trained = training(model, tmp_path / "training", rows, looks, **options).run()
    assert trained.steps == steps == max(looks.losses)
    assert len(looks.losses) == min(steps, options.get("evaluations", QUICK.evaluations))
    assert trained.after == looks.losses[trained.best_step] == min(looks.losses.values())


def test_the_best_step_is_kept_not_the_last(tiny: Tiny, tmp_path: Path, rows: Path) -> None:
    """A learning rate that soon does harm."""
    looks, model = Looks(), source(tiny, "llama-mha")
    wild = replace(QUICK, learning_rate=0.2, evaluations=12, max_steps=12, schedule="constant")
    quality = run(model, tmp_path / "out", rows, wild, progress=looks).quality
    best = min(looks.losses, key=lambda step: looks.losses[step])
    assert best < 12
    assert looks.losses[best] < looks.losses[12]
    assert quality["best_step"] == best
    assert quality["held_out_loss"]["after"] == pytest.approx(looks.losses[best], rel=1e-4)
    assert held_out_loss(tmp_path / "out", rows) == pytest.approx(looks.losses[best], rel=1e-4)


def test_no_model_is_left_in_memory(tiny: Tiny, tmp_path: Path, rows: Path) -> None:
    """One that lingered would take the room of the next on a GPU."""

    def alive() -> int:
        return sum(issubclass(type(thing), PreTrainedModel) for thing in gc.get_objects())

    model, options = source(tiny, "llama-mha"), replace(QUICK, dtype="float32")
    data = load_training_data(Checkpoint(model).meta, [str(rows)], options)
    gc.collect()
    before = alive()
    gc.disable()  # what dies must not wait for a collection
    try:
        trained = Training(model, model, tmp_path / "training", data, options, Silent())
        trained.run()
        assert alive() == before
        trained.adapted().merge_adapter()
        assert alive() == before
    finally:
        gc.enable()
