"""``slimgpt evaluate``: its figures of the embedded model, and what they mean."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from slimgpt import loading
from slimgpt.demo import EVALUATION, MODEL
from slimgpt.errors import SlimGPTError
from slimgpt.evaluate.judge import TaskOptions, TextSpec, check, judge
from tests.command_line import ENVIRONMENT, USAGE, Desk

ENTRY = {"value", "tokens", "window", "text", "protocol"}


def evaluate(desk: Desk, *arguments: Any) -> dict[str, Any]:
    ended = desk.run(["evaluate", *map(str, arguments), "--json", "--quiet"])
    assert (ended.code, ended.stderr) == (0, "")
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def test_the_embedded_model_has_the_perplexity_of_its_card(desk: Desk) -> None:
    document = evaluate(desk, MODEL, "--text", EVALUATION)
    assert document.keys() == {"perplexity", "dtype"}
    entry = document["perplexity"]
    assert entry.keys() == ENTRY
    assert entry["value"] == pytest.approx(52.589, abs=0.01)
    assert entry["tokens"] == 128 * 127
    assert (entry["window"], entry["text"]) == (128, "evaluation.jsonl")
    assert entry["protocol"] == "rows of token ids, disjoint windows of 128"
    assert document["dtype"] == "float32"


def test_perplexity_on_own_samples_grows_by_the_divergence(desk: Desk) -> None:
    assert desk.run(desk.prune("--quiet")).code == 0
    own = desk.root / "own.jsonl"
    _write_own_samples(desk, own)
    document = evaluate(desk, desk.out, "--baseline", desk.model, "--text", own, "--window", "64")
    assert document.keys() == {"perplexity", "baseline_perplexity", "kl", "dtype"}
    assert document["kl"].keys() == {"value", "tokens", "unit"}
    pruned, dense = (document[key]["value"] for key in ("perplexity", "baseline_perplexity"))
    assert pruned > dense
    assert math.log(pruned) - math.log(dense) == pytest.approx(document["kl"]["value"], rel=0.15)


def _write_own_samples(desk: Desk, path: Any) -> None:
    from slimgpt.calibration import load_calibration
    from slimgpt.checkpoint.reader import Checkpoint

    own = load_calibration(
        Checkpoint(desk.model), ["self"], samples=256, sequence_length=64, seed=3
    )
    rows = (json.dumps({"input_ids": row}) + "\n" for row in own.windows.tolist())
    path.write_text("".join(rows))


def test_a_model_does_not_diverge_from_itself(desk: Desk) -> None:
    text = desk.root / "x.jsonl"
    text.write_text("".join(EVALUATION.read_text().splitlines(keepends=True)[:8]))
    document = evaluate(desk, desk.model, "--baseline", desk.model, "--text", text)
    assert document["kl"]["value"] == 0
    assert document["perplexity"] == document["baseline_perplexity"]


def test_people_get_the_protocol_beside_the_number(desk: Desk) -> None:
    text = desk.root / "x.txt"
    text.write_text("It was a bright cold day in April.\n" * 99)
    command = ["evaluate", str(desk.model), "--text", str(text), "--window", "32"]
    shown = desk.run(command).stdout
    assert "text as it is, disjoint windows of 32" in " ".join(shown.split())
    assert "perplexity" in shown
    paper = " ".join(desk.run([*command, "--protocol", "paper"]).stdout.split())
    assert "lines joined by blank lines" in paper


def test_the_type_to_compute_in_is_the_users(desk: Desk) -> None:
    text = desk.root / "x.jsonl"
    text.write_text("".join(EVALUATION.read_text().splitlines(keepends=True)[:2]))
    values = {
        dtype: evaluate(desk, desk.model, "--text", text, "--dtype", dtype)
        for dtype in ("float32", "bfloat16")
    }
    assert [values[dtype]["dtype"] for dtype in values] == ["float32", "bfloat16"]
    exact, rounded = (document["perplexity"]["value"] for document in values.values())
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)


# -- tasks -----------------------------------------------------------------------------------------

SUBJECTS = ("The old man", "A king", "The ship", "My sister", "The house", "A horse", "Rain")
ENDS = ("was there", "went into the garden of the neighbours", "fell")
SCORES = {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr"}


def write_task(folder: Path, name: str, count: int = 42) -> Path:
    """Questions that a small model answers neither all right nor all wrong."""
    rows = [
        {
            "question": f"{SUBJECTS[i % 7]} and {SUBJECTS[i // 7 % 7].lower()} of the {i}th",
            "choices": [f"{end} on day {i}" for end in ENDS],
            "label": i % 3,
        }
        for i in range(count)
    ]
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(desk: Desk) -> Path:
    folder = desk.root / "data"
    for name in ("mine", "piqa"):
        write_task(folder, name)
    return folder


@pytest.fixture
def text(desk: Desk) -> Path:
    path = desk.root / "x.jsonl"
    path.write_text("".join(EVALUATION.read_text().splitlines(keepends=True)[:2]))
    return path


def test_tasks_are_scored_with_their_protocol(desk: Desk, data: Path) -> None:
    document = evaluate(desk, desk.model, "--tasks", "mine, piqa", "--task-data", data)
    assert document.keys() == {"tasks", "dtype"}
    assert list(document["tasks"]) == ["mine", "piqa"]
    mine = document["tasks"]["mine"]
    assert mine.keys() == SCORES | {
        "n",
        "num_fewshot",
        "truncated",
        "file",
        "sha256",
        "protocol",
        "harness",
        "limit",
        "seed",
        "dtype",
    }
    assert 0 < mine["acc"] < 1
    assert (mine["n"], mine["num_fewshot"], mine["limit"], mine["seed"]) == (42, 0, None, 0)
    assert mine["sha256"] == hashlib.sha256((data / "mine.test.jsonl").read_bytes()).hexdigest()
    assert document["tasks"]["piqa"]["protocol"].startswith("piqa.test.jsonl, as lm-eval's piqa")


def test_a_pruned_model_is_as_accurate_as_the_ratio_says(desk: Desk, data: Path) -> None:
    assert desk.run(desk.prune("--quiet", "--ratio", "0.4")).code == 0
    options = ["--tasks", "mine", "--tasks", "piqa", "--task-data", data, "--baseline", desk.model]
    document = evaluate(desk, desk.out, *options)
    assert document.keys() == {"tasks", "accuracy", "dtype"}
    tasks, accuracy = document["tasks"].values(), document["accuracy"]
    assert all(task["baseline"].keys() == SCORES for task in tasks)
    assert accuracy["mean"] == pytest.approx(sum(t["acc"] for t in tasks) / 2)
    assert accuracy["baseline_mean"] == pytest.approx(sum(t["baseline"]["acc"] for t in tasks) / 2)
    assert accuracy["ratio"] == pytest.approx(accuracy["mean"] / accuracy["baseline_mean"])
    assert accuracy["lower"] < accuracy["ratio"] < accuracy["upper"]
    assert (accuracy["tasks"], accuracy["n"], accuracy["confidence"]) == (2, 84, 0.95)
    assert accuracy["metric"] == "acc"


def test_texts_and_tasks_come_together(desk: Desk, data: Path, text: Path) -> None:
    other = desk.root / "y.txt"
    other.write_text("It was a bright cold day in April. " * 99)
    document = evaluate(
        desk,
        desk.model,
        *("--text", text, "--text", other, "--window", 32, "--baseline", desk.model),
        *("--tasks", data / "mine.test.jsonl", "--limit", 4, "--num-fewshot", 1, "--seed", 7),
    )
    first, second = document["texts"]
    assert document["perplexity"]["text"] == first["text"] == "x.jsonl"
    assert document["perplexity"]["value"] == first["perplexity"] == first["baseline_perplexity"]
    assert document["kl"]["value"] == first["kl"] == 0
    assert second["how"] == "text as it is, disjoint windows of 32"
    assert (second["file"], second["protocol"], second["window"]) == ("y.txt", "raw", 32)
    assert second["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
    mine = document["tasks"]["mine"]
    assert (mine["n"], mine["num_fewshot"], mine["limit"], mine["seed"]) == (4, 1, 4, 7)
    accuracy = document["accuracy"]
    assert (accuracy["lower"], accuracy["why"]) == (None, "too few examples: 4, of at least 30")


def test_people_get_errors_protocol_and_interval_of_tasks(desk: Desk, data: Path) -> None:
    command = ["evaluate", desk.model, "--task-data", data, "--baseline", desk.model]
    ended = desk.run([*map(str, command), "--tasks", "mine,piqa", "--quiet"])
    assert (ended.code, ended.stderr) == (0, "")
    shown = " ".join(ended.stdout.split())
    assert " ± " in shown
    assert "± one standard error; lm_eval 0." in shown
    assert "mine: mine.test.jsonl, generic prompt" in shown
    assert "0-shot, seed 0, float32" in shown
    assert "ratio 1.000, 95% interval 0.9" in shown
    few = desk.run([*map(str, command), "--tasks", "mine", "--limit", "3", "--quiet"])
    shown = " ".join(few.stdout.split())
    assert "the first 3 examples" in shown
    assert "too few examples: 3, of at least 30" in shown


def test_a_cut_prompt_is_not_silent(desk: Desk) -> None:
    path = desk.root / "long.jsonl"
    row = {"question": "word " * 300, "choices": ["a", "b"], "label": 0}
    path.write_text(f"{json.dumps(row)}\n" * 2)
    command = ["evaluate", str(desk.model), "--tasks", str(path)]
    ended = desk.run(command)
    assert ended.code == 0
    assert "long: 2 of 2 examples are longer than the model's context of 256" in ended.stderr
    assert "2 of 2 cut to fit the context" in " ".join(ended.stdout.split())
    assert evaluate(desk, *command[1:])["tasks"]["long"]["truncated"] == 2


WRONG: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "nothing": ([], USAGE, ("nothing to evaluate", "--text FILE, --tasks NAMES or both")),
    "no name": (["--tasks", "mine,"], USAGE, ("--tasks has an empty name",)),
    "limit 0": (["--tasks", "mine", "--limit", "0"], USAGE, ("--limit 0: give at least 1",)),
    "batch size 0": (["--tasks", "mine", "--batch-size", "0"], USAGE, ("--batch-size 0: give",)),
    "shots": (["--tasks", "mine", "--num-fewshot", "42"], USAGE, ("--num-fewshot 42 needs more",)),
    "shots negative": (["--tasks", "mine", "--num-fewshot", "-1"], USAGE, ("--num-fewshot -1",)),
    "folder": (["--tasks", "mine", "--task-data", "{root}/no"], USAGE, ("/no is no folder",)),
    "file": (["--tasks", "{root}/no.jsonl"], USAGE, ("no.jsonl is no file",)),
    "row": (["--tasks", "{root}/bad.jsonl"], USAGE, ("bad.jsonl line 1: label missing",)),
    "no GPU": (["--tasks", "mine", "--device", "cuda:63"], ENVIRONMENT, ("--device cuda:63",)),
}


@pytest.mark.parametrize(("options", "code", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_of_tasks(
    desk: Desk, data: Path, options: list[str], code: int, says: tuple[str, ...]
) -> None:
    (desk.root / "bad.jsonl").write_text('{"question": "a", "choices": ["b", "c"]}')
    command = ["evaluate", "{model}", "--task-data", str(data), *options]
    desk.refuses(desk.fill(command), code, *says)


@pytest.mark.slow  # lm-eval's list of its 14,000 tasks is read
def test_without_a_network_the_hubs_tasks_are_refused_in_one_line(desk: Desk, data: Path) -> None:
    command = ["evaluate", str(desk.model), "--task-data", str(data), "--quiet", "--tasks"]
    says = "no file for it is in", "can't be had from the hub", "give --task-data DIR with boolq"
    desk.refuses([*command, "mine,boolq"], ENVIRONMENT, "--tasks boolq", *says, how=desk.execute)


# -- in Python -------------------------------------------------------------------------------------


def test_everything_cheap_is_checked_before_a_weight_is_read(
    desk: Desk, data: Path, text: Path
) -> None:
    (desk.model / "model.safetensors").unlink()
    good = TextSpec(text, 64, "raw", "x.jsonl"), TaskOptions(("mine",), data)
    check(desk.model, desk.model, good[:1], good[1])
    for texts, tasks in (
        ([TextSpec(text, 999, "raw", "x.jsonl")], None),
        ([TextSpec(desk.root / "no.txt", 64, "raw", "no.txt")], None),
        ([], TaskOptions(("mine",), data, limit=0)),
        ([], TaskOptions((str(desk.root / "no.jsonl"),))),
    ):
        with pytest.raises(SlimGPTError) as early:
            check(desk.model, None, texts, tasks)
        with pytest.raises(SlimGPTError, match=r"--(text|window|limit|tasks)") as late:
            judge(desk.model, None, texts, tasks)
        assert str(early.value) == str(late.value)


@pytest.mark.parametrize("with_text", [True, False])
def test_each_model_is_loaded_once(
    desk: Desk, data: Path, text: Path, with_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[Path] = []
    load = loading.load_model

    def counted(directory: Path, **options: Any) -> Any:
        times.append(directory)
        return load(directory, **options)

    monkeypatch.setattr(loading, "load_model", counted)
    texts = [TextSpec(text, 64, "raw", f"texts/{text.name}")] if with_text else []
    judgement = judge(
        desk.model, MODEL, texts, TaskOptions(("mine", "piqa"), data, limit=20), confidence=0.8
    )
    assert times == [desk.model, MODEL]
    record = judgement.to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record.keys() == {"texts", "tasks", "accuracy"}
    assert [entry["file"] for entry in record["texts"]] == ["texts/x.jsonl"] * with_text
    assert record["accuracy"]["confidence"] == 0.8
    assert record["accuracy"]["n"] == 40


def test_without_a_baseline_nothing_is_relative(desk: Desk, data: Path, text: Path) -> None:
    texts = [TextSpec(text, 64, "raw", "x.jsonl")]
    record = judge(desk.model, None, texts, TaskOptions(("mine",), data)).to_json()
    assert record.keys() == {"texts", "tasks"}
    (entry,) = record["texts"]
    assert (entry["baseline_perplexity"], entry["kl"]) == (None, None)
    assert "baseline" not in record["tasks"]["mine"]


def test_two_judgements_are_the_same(desk: Desk, data: Path) -> None:
    options = TaskOptions(("mine",), data, num_fewshot=2)
    one, other = (judge(desk.model, None, [], options, seed=5).to_json() for _ in range(2))
    assert one == other
