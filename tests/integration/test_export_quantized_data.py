"""A quantisation takes the text of the pruning run, and measures on what it has not seen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt.calibration import load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.demo import CALIBRATION, EVALUATION
from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt_export.quantize_data import DataOptions, choose
from slimgpt_export.quantize_windows import SHARED_TOKENS, Data, load_data

SAMPLES, LENGTH = 16, 64
WORDS = [a + b for a in ("ba", "ko", "ri", "nu") for b in ("ten", "sol", "mar", "vik")]


@pytest.fixture(scope="module")
def model(small: Path) -> Checkpoint:
    return Checkpoint(small)


def recipe(model: Checkpoint, *sources: Path, seed: int = 0) -> dict[str, Any]:
    """As the manifest of a model that was pruned on these files has it."""
    calibration = load_calibration(
        model, list(map(str, sources)), samples=SAMPLES, sequence_length=LENGTH, seed=seed
    )
    return {"ratio": 0.25, "calibration": calibration.describe()}


def data(model: Checkpoint, done: dict[str, Any], *, calibrated: bool = True, **asked: Any) -> Data:
    options = DataOptions(**asked)
    chosen = choose(model, done, options, calibrated=calibrated)
    return load_data(model, chosen, options, calibrated=calibrated)


def runs(windows: torch.Tensor) -> set[tuple[int, ...]]:
    size = SHARED_TOKENS
    return {
        tuple(row[i : i + size]) for row in windows.tolist() for i in range(len(row) - size + 1)
    }


def write_text(path: Path, words: int) -> Path:
    """Text in which no run of words comes twice, but by chance."""
    picks = torch.randint(len(WORDS), (words,), generator=torch.Generator().manual_seed(1))
    path.write_text(" ".join(WORDS[i] for i in picks))
    return path


def test_default_is_the_very_windows_of_the_pruning_run(model, monkeypatch):
    monkeypatch.chdir(CALIBRATION.parent)
    done = recipe(model, CALIBRATION, seed=5)
    found = data(model, done)
    assert found.as_pruned
    assert found.calibration is not None
    assert found.calibration.describe() == done["calibration"]


@pytest.mark.parametrize("kind", ["rows", "text"])
def test_held_out_windows_share_nothing_with_the_calibration(model, tmp_path, kind):
    source = CALIBRATION if kind == "rows" else write_text(tmp_path / "long.txt", 20_000)
    asked: dict[str, Any] = {"samples": SAMPLES, "sequence_length": LENGTH, "seed": 3}
    found = data(model, {}, calibration=(str(source),), **asked)
    assert found.calibration is not None
    alone = load_calibration(model, [str(source)], **asked)
    assert found.calibration.windows.equal(alone.windows)
    assert runs(found.held_out.windows).isdisjoint(runs(alone.windows))
    assert 1 <= len(found.held_out.windows) <= 32
    assert found.held_out.windows.shape[1] == LENGTH
    assert not found.as_pruned


def test_samples_of_the_model_itself_are_drawn_twice(model):
    found = data(model, {}, calibration=("self",), samples=4, sequence_length=24)
    assert found.calibration is not None
    assert found.calibration.sources == ("self",)
    assert runs(found.held_out.windows).isdisjoint(runs(found.calibration.windows))


def test_text_is_measured_whole_and_known_by_its_digest(model):
    asked: dict[str, Any] = {"samples": SAMPLES, "sequence_length": LENGTH, "window": 128}
    found = data(model, {}, calibration=(str(CALIBRATION),), text=EVALUATION, **asked)
    assert found.held_out.windows.shape == (128, 128)
    assert len(str(found.held_out_digest)) == 64


def test_a_scheme_without_calibration_needs_text_alone(model):
    found = data(model, {}, calibrated=False, text=EVALUATION, window=128)
    assert found.calibration is None
    assert found.describe() == {}


def test_without_calibration_the_measured_text_is_still_not_what_it_was_pruned_on(
    model, monkeypatch
):
    monkeypatch.chdir(CALIBRATION.parent)
    done = recipe(model, CALIBRATION)
    pruned_on = load_calibration(
        model, [str(CALIBRATION)], samples=SAMPLES, sequence_length=LENGTH, seed=0
    )
    found = data(model, done, calibrated=False)
    assert found.calibration is None
    assert runs(found.held_out.windows).isdisjoint(runs(pruned_on.windows))


@pytest.mark.parametrize(
    ("done", "calibrated", "says"),
    [
        ({}, True, "does not say on what text it was pruned: give --calibration FILE$"),
        ({}, False, "give --text FILE for what is measured$"),
        ({"calibration": None}, True, "give --calibration FILE$"),
        ({"calibration": {"sources": "c4"}}, True, "give --calibration FILE$"),
        ({"calibration": {"sources": ["gone.jsonl"]}}, True, "on gone.jsonl, which is not here"),
        ({"calibration": {"sources": ["gone.jsonl"]}}, False, "which is not here: give --text"),
        ({"calibration": {"sources": ["self"]}}, True, "give --calibration self for samples of"),
    ],
)
def test_what_is_missing_is_named_with_its_flag(model, done, calibrated, says):
    with pytest.raises(UsageError, match=says):
        choose(model, done, DataOptions(), calibrated=calibrated)


@pytest.mark.parametrize("name", ["{path}", "../{name}", "./{name}", "{name}\x1b[2J", ""])
@pytest.mark.parametrize("calibrated", [True, False])
def test_a_manifest_names_no_file_of_another_folder(model, name, calibrated, monkeypatch):
    """It may come from anyone, and slimgpt writes names without folders."""
    monkeypatch.chdir(CALIBRATION.parent / "model")
    source = name.format(path=CALIBRATION, name=CALIBRATION.name)
    done = {"calibration": {"sources": [source], "samples": 2, "sequence_length": 16}}
    with pytest.raises(UsageError, match="does not say on what text it was pruned"):
        choose(model, done, DataOptions(samples=2), calibrated=calibrated)


@pytest.mark.parametrize(
    "entry", [{"samples": 0}, {"sequence_length": 1}, {"seed": -1}, {"samples": True}], ids=str
)
def test_numbers_that_no_run_can_have_had_are_passed_over(model, entry):
    asked = DataOptions((str(CALIBRATION),))
    plain = choose(model, {}, asked, calibrated=True)
    assert choose(model, {"calibration": entry}, asked, calibrated=True) == plain


def test_memory_that_holds_no_spare_windows_is_told_for_the_samples_asked(model, monkeypatch):
    """16 bytes a token: there is room for what was asked, and not for 128 windows more."""
    asked: dict[str, Any] = {"samples": SAMPLES, "sequence_length": LENGTH, "text": None}
    free = 16 * SAMPLES * LENGTH
    monkeypatch.setattr("slimgpt.resources.available_memory_bytes", lambda: free)
    with pytest.raises(UsageError, match=r"apart from the 16 to calibrate on: give --text"):
        data(model, {}, calibration=(str(CALIBRATION),), **asked)
    monkeypatch.setattr("slimgpt.resources.available_memory_bytes", lambda: free - 1)
    with pytest.raises(EnvironmentProblem, match=r"^--samples 16 x 64 tokens needs"):
        data(model, {}, calibration=(str(CALIBRATION),), **asked)


def test_another_text_of_the_same_name_is_refused(model, tmp_path, monkeypatch):
    done = recipe(model, CALIBRATION)
    rows = CALIBRATION.read_text().splitlines()
    (tmp_path / CALIBRATION.name).write_text("\n".join(rows[1:]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"calibration.jsonl here is not the text that MODEL was"):
        data(model, done)


def test_a_text_that_is_used_up_is_refused(model, tmp_path):
    rows = CALIBRATION.read_text().splitlines()[:SAMPLES]
    (tmp_path / "few.jsonl").write_text("\n".join(rows))
    with pytest.raises(UsageError, match=r"few.jsonl has no window of 64 tokens .*: give --text"):
        data(
            model,
            {},
            calibration=(str(tmp_path / "few.jsonl"),),
            samples=SAMPLES,
            sequence_length=LENGTH,
        )


def test_too_little_text_is_told_for_the_samples_asked(model, tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps({"input_ids": list(range(3, 90))}))
    with pytest.raises(UsageError, match=r"too short for 16 windows"):
        data(
            model,
            {},
            calibration=(str(tmp_path / "one.jsonl"),),
            samples=SAMPLES,
            sequence_length=LENGTH,
        )


def test_window_without_text_is_refused(model):
    with pytest.raises(UsageError, match="--window goes with --text"):
        choose(model, {}, DataOptions(("c4",), window=64), calibrated=True)
