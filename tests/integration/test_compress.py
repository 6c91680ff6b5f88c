"""``slimgpt compress``: what a release engineer relies on."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from safetensors.torch import load_file

from slimgpt.demo import CALIBRATION, EVALUATION
from slimgpt.release.manifest import read_manifest
from tests.command_line import INTEGRITY, USAGE, Desk

GATE = 1
MET = {"perplexity_increase": 5.0, "kl": 5.0, "weight_bytes": 1.0, "kv_bytes": 1.0}


def write_recipe(desk: Desk, **changes: Any) -> Path:
    """A recipe of every local stage, which takes seconds."""
    questions = desk.root / "colours.jsonl"
    rows = [
        {"question": f"What is {i} and {i}?", "choices": [str(2 * i), "a house"], "label": 0}
        for i in range(40)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "version": 1,
        "prune": {
            "ratio": 0.25,
            "calibration": str(CALIBRATION),
            "samples": 8,
            "sequence_length": 32,
        },
        "recover": {
            "data": str(CALIBRATION),
            "max_length": 32,
            "max_steps": 4,
            "batch_size": 8,
            "micro_batch": 8,
            "warmup_steps": 1,
            "learning_rate": 0.005,
            "held_out": 8,
            "evaluations": 2,
        },
        "evaluate": {"texts": [{"file": str(EVALUATION), "window": 64}]},
        "gates": MET,
        "exports": [{"format": "cyclonedx"}],
    } | changes
    path = desk.root / "release.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))
    return path


WITH_TASKS = {
    "texts": [{"file": str(EVALUATION), "window": 64}],
    "tasks": ["colours.jsonl"],
}


def compress(desk: Desk, *options: str) -> list[str]:
    recipe = str(desk.root / "release.yaml")
    return ["compress", str(desk.model), str(desk.out), "--recipe", recipe, *options]


def weights(directory: Path) -> dict[str, Any]:
    return load_file(directory / "model.safetensors")


@pytest.fixture(scope="module")
def released(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A finished job; not to be changed."""
    from slimgpt.cli import run

    desk = Desk(tmp_path_factory.mktemp("released"))
    shutil.copytree(small, desk.model)
    write_recipe(desk, evaluate=WITH_TASKS)
    assert run(compress(desk, "--quiet")) == 0
    return desk


def report(desk: Desk) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((desk.root / "out.report" / "report.json").read_text())
    return document


def test_a_release_has_weights_card_picture_bill_and_manifest_and_nothing_is_left_over(
    released: Desk,
) -> None:
    names = {path.name for path in released.out.iterdir()}
    assert {"model.safetensors", "README.md", "widths.png", "bom.cdx.json", "slimgpt.json"} <= names
    assert not released.out.with_name("out.partial").exists()
    assert {p.name for p in (released.root / "out.report").iterdir()} == {
        "report.json",
        "junit.xml",
        "summary.txt",
    }


def test_the_document_has_what_the_interface_promises(released: Desk) -> None:
    document = report(released)
    assert document["out"] == str(released.out)
    assert document["ratio"]["asked"] == 0.25
    assert document["parameters"]["after"] < document["parameters"]["before"]
    assert document["seconds"] > 0
    assert document["peak_rss_bytes"] > 0
    assert [s["stage"] for s in document["stages"]] == [
        "source",
        "prune",
        "recover",
        "evaluate",
        "release",
    ]


def test_the_manifest_tells_what_was_asked_measured_and_decided(released: Desk) -> None:
    manifest = read_manifest(released.out)
    assert manifest
    assert manifest["source"]["name"] == "model"
    assert set(manifest["recipe"]) >= {"ratio", "recovery", "evaluate", "gates"}
    (text,) = manifest["quality"]["texts"]
    assert text["perplexity"] > 1
    assert text["kl"] > 0
    assert manifest["quality"]["tasks"]["colours"]["n"] == 40
    assert all(gate["passed"] for gate in manifest["gates"])
    loss = manifest["quality"]["recovery"]["held_out_loss"]
    assert loss["after"] < loss["before"]
    assert str(released.root) not in (released.out / "slimgpt.json").read_text()


def test_the_same_job_twice_gives_the_same_bytes(released: Desk, desk: Desk) -> None:
    write_recipe(desk, evaluate=WITH_TASKS)
    assert desk.run(compress(desk)).code == 0
    for path in released.out.rglob("*"):
        assert (desk.out / path.relative_to(released.out)).read_bytes() == path.read_bytes(), path


def test_a_missed_gate_ends_in_1_and_releases_nothing(desk: Desk) -> None:
    write_recipe(desk, recover=None, evaluate=None, gates={"weight_bytes": 0.2})
    ended = desk.run(compress(desk))
    assert ended.code == GATE
    assert not desk.out.exists()
    for words in ("1 of 1 gates missed", "weight_bytes", "0.2", "margin"):
        assert words in ended.stderr
    suite = ET.parse(desk.root / "out.report" / "junit.xml").getroot()
    assert suite.get("failures") == "1"
    assert report(desk)["released"] is False
    assert "NOT RELEASED" in (desk.root / "out.report" / "summary.txt").read_text()


def test_a_report_of_an_earlier_run_is_not_taken_for_one_of_a_run_that_broke_off(
    desk: Desk,
) -> None:
    write_recipe(desk, recover=None, gates={"kl": 0.0})
    assert desk.run(compress(desk)).code == GATE
    (desk.root / "out.report" / "note.txt").write_text("of a person")
    (desk.out.with_name("out.partial") / "evaluate.json").write_text("{}")
    assert desk.run(compress(desk)).code == INTEGRITY
    assert [p.name for p in (desk.root / "out.report").iterdir()] == ["note.txt"]


def test_a_log_file_has_every_gate(desk: Desk) -> None:
    write_recipe(desk, recover=None, evaluate=None, gates={"weight_bytes": 0.2, "kv_bytes": 1.0})
    log = desk.root / "log"
    assert desk.run(compress(desk, "--quiet", "--log-file", str(log))).code == GATE
    events = [json.loads(line) for line in log.read_text().splitlines()]
    gates = {e["name"]: e["passed"] for e in events if e["event"] == "gate"}
    assert gates == {"weight_bytes": False, "kv_bytes": True}


def test_a_gate_that_is_made_easier_releases_without_work_done_again(desk: Desk) -> None:
    write_recipe(desk, recover=None, gates={"kl": 0.0})
    assert desk.run(compress(desk)).code == GATE
    assert desk.run(compress(desk, "--set", "gates.kl=9")).code == 0
    stages = {s["stage"]: s["reused"] for s in report(desk)["stages"]}
    assert stages["prune"]
    assert stages["evaluate"]
    manifest = read_manifest(desk.out)
    assert manifest
    assert manifest["gates"][0]["limit"] == 9


def test_another_text_is_measured_anew_on_the_same_weights(desk: Desk) -> None:
    write_recipe(desk, recover=None, gates={"kl": 0.0})
    assert desk.run(compress(desk)).code == GATE
    texts = [{"file": str(EVALUATION), "window": 32}]
    write_recipe(desk, recover=None, evaluate={"texts": texts}, gates={"kl": 9.0})
    assert desk.run(compress(desk)).code == 0
    stages = {s["stage"]: s["reused"] for s in report(desk)["stages"]}
    assert stages["prune"]
    assert not stages["evaluate"]


def test_another_ratio_is_refused_until_fresh(desk: Desk) -> None:
    write_recipe(desk, recover=None, gates={"kl": 0.0})
    assert desk.run(compress(desk)).code == GATE
    ended = desk.run(compress(desk, "--ratio", "0.4"))
    assert ended.code == USAGE
    assert "another recipe.prune.ratio" in ended.stderr
    assert desk.run(compress(desk, "--ratio", "0.4", "--set", "gates.kl=9", "--fresh")).code == 0
    assert report(desk)["ratio"]["asked"] == 0.4


def test_other_training_data_under_the_same_name_is_refused(desk: Desk) -> None:
    data = desk.root / "calibration.jsonl"
    shutil.copy(CALIBRATION, data)
    prune = {"ratio": 0.25, "calibration": data.name, "samples": 8, "sequence_length": 32}
    write_recipe(desk, recover=None, prune=prune, gates={"kl": 0.0})
    assert desk.run(compress(desk)).code == GATE
    data.write_text("".join(data.read_text().splitlines(keepends=True)[::-1]))
    ended = desk.run(compress(desk))
    assert ended.code == USAGE
    assert "another training data" in ended.stderr


def test_a_ratio_alone_is_a_recipe(desk: Desk) -> None:
    options = ["--ratio", "0.25", "--set", f"prune.calibration={CALIBRATION}"]
    options += ["--set", "prune.samples=8", "--set", "prune.sequence_length=32"]
    ended = desk.run(["compress", str(desk.model), str(desk.out), *options, "--json"])
    assert ended.code == 0
    document = json.loads(ended.stdout)
    assert document["gates"] == []
    assert document["passed"]
    assert desk.out.exists()


def test_a_finished_release_is_not_made_again(desk: Desk) -> None:
    write_recipe(desk, recover=None, evaluate=None, gates=None)
    assert desk.run(compress(desk)).code == 0
    desk.refuses(compress(desk), USAGE, "exists")


def test_a_quoted_home_is_no_part_of_the_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(desk.root))
    write_recipe(desk, recover=None, evaluate=None, gates=None)
    recipe = str(desk.root / "release.yaml")
    assert desk.run(["compress", "~/model", str(desk.out), "--recipe", recipe]).code == 0
    manifest = read_manifest(desk.out)
    assert manifest
    assert manifest["source"]["name"] == "model"


def test_names_that_turn_a_line_round_are_shown_as_text(desk: Desk) -> None:
    name = "evil\u202etxt.jsonl"
    shutil.copy(EVALUATION, desk.root / name)
    texts = [{"file": name, "window": 64}]
    write_recipe(desk, recover=None, evaluate={"texts": texts}, gates={"kl": 9.0})
    ended = desk.run(compress(desk, "--quiet"))
    assert ended.code == 0, ended
    assert "evil txt.jsonl" in ended.stdout
    assert "\u202e" not in ended.stdout


def test_a_text_that_was_trained_on_is_said_to_prove_little(desk: Desk) -> None:
    texts = [{"file": str(CALIBRATION), "window": 64}]
    write_recipe(desk, recover=None, evaluate={"texts": texts}, gates={"kl": 9.0})
    ended = desk.run(compress(desk))
    assert ended.code == 0
    said = " ".join(ended.stderr.split())
    assert "calibration.jsonl is measured, and was calibrated or trained on" in said
