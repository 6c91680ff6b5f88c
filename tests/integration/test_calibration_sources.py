"""Where calibration text may come from, and that it decides the bytes of the result."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from slimgpt.calibration import HUB_SETS, HubSet, hub_documents, load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.text import Document, Exchange
from tests.command_line import Desk

WORDS = [f"The {n}th morning of the voyage brought {n * 7} gulls and no land." for n in range(400)]


def prune(desk: Desk, name: str, *options: Any) -> dict[str, bytes]:
    """Prunes and returns the bytes of every file."""
    desk.out = desk.root / name
    ended = desk.run(desk.prune("--quiet", *options))
    assert (ended.code, ended.stderr) == (0, "")
    paths = (p for p in desk.out.rglob("*") if p.is_file())
    return {str(p.relative_to(desk.out)): p.read_bytes() for p in paths}


def recipe(files: dict[str, bytes]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(files["slimgpt.json"])["recipe"]["calibration"]
    return value


def digest(desk: Desk, *sources: Path) -> str:
    """Stands for the windows that the sources give."""
    made = load_calibration(
        Checkpoint(desk.model), [str(x) for x in sources], samples=8, sequence_length=32, seed=0
    )
    return str(made.describe()["windows_sha256"])


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_same_command_gives_the_same_bytes(desk: Desk) -> None:
    assert prune(desk, "first") == prune(desk, "second")


def test_activations_on_disk_give_the_same_bytes(desk: Desk) -> None:
    memory = prune(desk, "memory", "--activations", "memory")
    assert prune(desk, "disk", "--activations", "disk") == memory


def test_another_seed_takes_other_windows(desk: Desk) -> None:
    one, two = (prune(desk, seed, "--seed", seed) for seed in "12")
    assert recipe(one)["seed"] == 1
    assert recipe(one)["windows_sha256"] != recipe(two)["windows_sha256"]
    assert one["model.safetensors"] != two["model.safetensors"]


def test_the_model_itself(desk: Desk) -> None:
    calibration = recipe(prune(desk, "self", "--calibration", "self"))
    assert calibration["sources"] == ["self"]
    assert (calibration["samples"], calibration["sequence_length"]) == (8, 32)


def test_several_files_follow_one_another(desk: Desk) -> None:
    half = len(WORDS) // 2
    one = write(desk.root / "1.jsonl", [{"text": x} for x in WORDS[:half]])
    two = write(desk.root / "2.jsonl", [{"text": x} for x in WORDS[half:]])
    both = write(desk.root / "both.jsonl", [{"text": x} for x in WORDS])
    parts = recipe(prune(desk, "parts", "--calibration", one, "--calibration", two))
    assert parts["sources"] == ["1.jsonl", "2.jsonl"]
    assert parts["windows_sha256"] == digest(desk, both)


def test_forms_of_the_same_text_are_the_same_calibration(desk: Desk) -> None:
    rows = [{"text": x} for x in WORDS]
    lines = write(desk.root / "x.jsonl", rows)
    listed = desk.root / "x.json"
    listed.write_text(json.dumps(rows))
    packed = desk.root / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    plain = desk.root / "x.txt"
    plain.write_text("\n\n".join(WORDS))
    assert len({digest(desk, path) for path in (lines, listed, packed, plain)}) == 1


def test_instructions_are_joined_as_alpaca_is(desk: Desk) -> None:
    parts = [(f"Say {x}", "" if i % 2 else f"in {i}", x) for i, x in enumerate(WORDS)]
    alpaca = [{"instruction": a, "input": b, "output": c} for a, b, c in parts]
    text = [{"text": "\n".join(filter(None, part))} for part in parts]
    one = write(desk.root / "a.jsonl", alpaca)
    assert digest(desk, one) == digest(desk, write(desk.root / "b.jsonl", text))


# -- hub sets, through the library but without the hub ---------------------------------------------


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("_cache")
def test_a_set_is_read_through_datasets(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", [{"text": x, "url": "no matter"} for x in WORDS])
    read = hub_documents("own", HubSet("json", files=str(file)), "--calibration")
    assert read == [Document(x) for x in WORDS]
    first = hub_documents("own", HubSet("json", files=str(file), rows=7), "--calibration")
    assert first == [Document(x) for x in WORDS[:7]]


@pytest.mark.usefixtures("_cache")
def test_a_set_may_hold_instructions(tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", "input": "1 2", "output": "3"}]
    file = write(tmp_path / "x.jsonl", rows)
    (read,) = hub_documents("own", HubSet("json", files=str(file)), "--data")
    assert read.text == "Add.\n1 2\n3"
    assert read.exchange == Exchange("Add.", "1 2", "3")


def test_the_papers_sets_are_known_by_name() -> None:
    assert HUB_SETS.keys() == {"c4", "wikitext2", "alpaca", "gpt4-alpaca"}
    assert HUB_SETS["c4"].rows == 200_000
