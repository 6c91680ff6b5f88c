"""A recovered checkpoint is its source with better projections, and the adapter model merged."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers import AutoModelForCausalLM, PreTrainedModel

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.demo import CALIBRATION
from slimgpt.errors import IntegrityError
from slimgpt.progress import Progress, Silent
from slimgpt.recover.adapter import PROJECTIONS, delta, updated, with_adapter
from slimgpt.recover.batches import mean_loss
from slimgpt.recover.data import load_training_data
from slimgpt.recover.driver import recover
from slimgpt.recover.merge import compare
from slimgpt.recover.options import RecoverOptions
from slimgpt.recover.result import RecoverResult
from slimgpt.recover.training import Training
from slimgpt.release.manifest import read_manifest
from slimgpt.shape import LayerShape
from tests.command_line import Desk
from tests.masking import stored_tensors
from tests.tiny_models import LENGTH, Tiny, load, logits, random_ids, write_rows

QUICK = RecoverOptions(
    batch_size=8,
    micro_batch=4,
    max_length=LENGTH,
    held_out=8,
    evaluations=2,
    max_steps=4,
    learning_rate=1e-2,
    warmup_steps=1,
    device="cpu",
)
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


def run(
    model: Path, out: Path, rows: Path, options: RecoverOptions = QUICK, **more: Any
) -> RecoverResult:
    return recover(model, out, [str(rows)], options, **more)


def digests(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
    }


def manifest(directory: Path) -> dict[str, Any]:
    found = read_manifest(directory)
    assert found
    return found


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


def training(
    model: Path, directory: Path, rows: Path, progress: Progress | None = None, **options: Any
) -> Training:
    """A training by itself, without what comes before and after."""
    settings = replace(QUICK, dtype="float32", **options)
    data = load_training_data(Checkpoint(model).meta, [str(rows)], settings)
    return Training(model, None, directory, data, settings, progress or Silent())


class Looks(Silent):
    """Remembers the held-out loss at each step where it was measured."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "held-out":
            assert fields["step"] not in self.losses
            self.losses[fields["step"]] = fields["loss"]


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """transformers collects garbage in every training; what pytest holds is none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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


def held_out_loss(model: Path, rows: Path) -> float:
    """As every user would measure it: the model loaded by transformers alone."""
    data = load_training_data(Checkpoint(model).meta, [str(rows)], QUICK)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    return mean_loss(loaded, data.held_out)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("per-layer widths", 1e-5),
        ("absent sub-blocks", 1e-5),
        ("norms of q and k, windows", 1e-5),
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


def test_updates_are_pefts_own(tiny: Tiny) -> None:
    model = load(source(tiny, "absent sub-blocks"), torch.float32)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    adapted = with_adapter(model, QUICK)
    generator = torch.Generator().manual_seed(0)
    for name, p in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, std=0.3, generator=generator)
    expected = {n: weights[n] + delta(layer) for n, layer in updated(adapted).items()}
    merged = dict(adapted.merge_and_unload().named_parameters())
    projections = {n for n in weights if n.split(".")[-2] in PROJECTIONS}
    assert set(expected) == projections
    for name, weight in weights.items():
        torch.testing.assert_close(merged[name], expected.get(name, weight))


# -- how it is trained -----------------------------------------------------------------------------


def updates_after(model: Path, directory: Path, rows: Path, **options: Any) -> dict[str, Tensor]:
    """The updates at the last step, which is the only one that is looked at."""
    trained = training(model, directory, rows, dropout=0.0, evaluations=1, **options)
    trained.run()
    return load_file(trained.best)


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny: Tiny, tmp_path: Path) -> None:
    """Rows of 2 to 24 tokens: a mean over micro-batches would weigh tokens unevenly."""
    rows = write_rows(tmp_path / "rows.jsonl", shortest=2)
    model = source(tiny, "per-layer widths")
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
    model = source(tiny, "absent sub-blocks")
    run(model, tmp_path / "plain", rows)
    run(model, tmp_path / "less memory", rows, replace(QUICK, gradient_checkpointing=True))
    assert digests(tmp_path / "plain") == digests(tmp_path / "less memory")


def test_equal_runs_give_equal_bytes_and_seeds_differ(
    tiny: Tiny, tmp_path: Path, rows: Path
) -> None:
    model = source(tiny, "GQA, KV heads kept")
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
    model = source(tiny, "GQA, KV heads kept")
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
    model, rows = source(tiny, "per-layer widths"), tmp_path / "rows.jsonl"
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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["per-layer widths", "stored as float16"])
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
        ({"max_steps": None, "epochs": 1.2}, 11),
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
    model = source(tiny, "per-layer widths")
    trained = training(model, tmp_path / "training", rows, looks, **options).run()
    assert trained.steps == steps == max(looks.losses)
    assert len(looks.losses) == min(steps, options.get("evaluations", QUICK.evaluations))
    assert trained.after == looks.losses[trained.best_step] == min(looks.losses.values())


def test_the_best_step_is_kept_not_the_last(tiny: Tiny, tmp_path: Path, rows: Path) -> None:
    """A learning rate that soon does harm."""
    looks, model = Looks(), source(tiny, "per-layer widths")
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

    model, options = source(tiny, "per-layer widths"), replace(QUICK, dtype="float32")
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


# -- the command -----------------------------------------------------------------------------------

LIGHT = [
    *("--batch-size", "8", "--micro-batch", "4", "--max-steps", "3", "--warmup-steps", "1"),
    *("--learning-rate", "5e-3", "--max-length", "96", "--evaluations", "1", "--device", "cpu"),
]


def alpaca_rows(desk: Desk, count: int = 40) -> str:
    path = desk.root / "alpaca.json"
    rows = [
        {"instruction": f"Say {i}.", "input": "", "output": f"Here it is, once more: {i}."}
        for i in range(count)
    ]
    path.write_text(json.dumps(rows))
    return str(path)


def test_json_is_all_that_reaches_stdout_and_quiet_leaves_stderr_empty(desk: Desk) -> None:
    command = ["recover", str(desk.model), str(desk.out), "--data", alpaca_rows(desk), *LIGHT]
    ended = desk.execute([*command, "--json", "--quiet"])
    assert (ended.code, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert set(document) == {
        *("out", "held_out_loss", "best_step", "steps", "merged", "data"),
        *("seconds", "peak_rss_bytes"),
    }
    assert document["held_out_loss"]["after"] < document["held_out_loss"]["before"]
    assert document["steps"] == 3


def test_people_are_told_what_it_was_good_for(desk: Desk) -> None:
    command = ["recover", str(desk.model), str(desk.out), "--data", alpaca_rows(desk), *LIGHT]
    ended = desk.run(command)
    assert ended.code == 0
    words = " ".join(ended.stdout.split())
    assert words.startswith(f"{desk.out}: held-out perplexity ")
    assert "(best at step 3 of 3), merged with logits within " in words


def test_the_log_has_every_look_at_the_held_out_examples(desk: Desk) -> None:
    log = desk.root / "log.jsonl"
    command = ["recover", str(desk.model), str(desk.out), "--data", alpaca_rows(desk), *LIGHT]
    assert desk.run([*command, "--evaluations", "3", "--log-file", str(log)]).code == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "held-out"] == [1, 2, 3]
    stages = [e["stage"] for e in events if e["event"] == "stage"]
    assert stages == [
        "held-out loss",
        "recovering",
        "merging",
        "checking the merged model",
        "writing checkpoint",
    ]


@pytest.mark.parametrize("data", ["book.txt", "rows of the demo"])
def test_other_text_trains_too(desk: Desk, data: str) -> None:
    book = desk.root / "book.txt"
    book.write_text("It was a bright cold day in April, and the clocks were striking.\n" * 99)
    given = str(book) if data == "book.txt" else str(CALIBRATION)
    ended = desk.run(["recover", str(desk.model), str(desk.out), "--data", given, *LIGHT, "--json"])
    loss = json.loads(ended.stdout)["held_out_loss"]
    assert loss["after"] < loss["before"]


def test_distilling_takes_half_the_loss_from_the_teacher_unless_told_otherwise(desk: Desk) -> None:
    command = ["recover", str(desk.model), str(desk.out), "--data", alpaca_rows(desk), *LIGHT]
    assert desk.run([*command, "--distill", str(desk.model)]).code == 0
    assert manifest(desk.out)["recipe"]["recovery"]["distill_weight"] == 0.5
