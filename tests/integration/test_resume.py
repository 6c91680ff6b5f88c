"""A killed run goes on where it stopped, and ends with the bytes of an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from slimgpt.calibration import Calibration, load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.demo import CALIBRATION, MODEL
from slimgpt.errors import IntegrityError, UsageError
from slimgpt.progress import Silent
from slimgpt.prune.driver import PruneResult, prune
from slimgpt.prune.journal import Journal
from slimgpt.prune.options import PruneOptions
from slimgpt.workspace import work_directory

LAYERS = 6
RATIO = 0.25


class Stopped(Exception):
    """Stands for the end of the process."""


class StopAfterLayer(Silent):
    def __init__(self, layer: int) -> None:
        self.layer = layer

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "layer" and fields["layer"] == self.layer:
            raise Stopped


class StopInStage(Silent):
    """Stops when a stage begins, or when it is over."""

    def __init__(self, stage: str, *, over: bool) -> None:
        self.stage, self.over, self.running = stage, over, ""

    def start(self, stage: str, total: int) -> None:
        self.running = stage
        if stage == self.stage and not self.over:
            raise Stopped

    def finish(self) -> None:
        if self.running == self.stage and self.over:
            raise Stopped


def calibrate(checkpoint: Checkpoint, seed: int = 0) -> Calibration:
    return load_calibration(
        checkpoint, [str(CALIBRATION)], samples=16, sequence_length=64, seed=seed
    )


def run(out: Path, *, ratio: float = RATIO, model: Path = MODEL, **options: Any) -> PruneResult:
    progress = options.pop("progress", None)
    seed = options.pop("seed", 0)
    settings = PruneOptions(ratio, device="cpu", **options)
    return prune(model, out, settings, lambda c: calibrate(c, seed), progress=progress)


def digests(directory: Path) -> dict[str, str]:
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(out)
    return digests(out)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_run_stopped_after_any_layer_ends_with_the_same_bytes(tmp_path, layer, undisturbed):
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run(out, progress=StopAfterLayer(layer))
    assert not out.exists()
    result = run(out)
    assert result.resumed_layers == layer + 1
    assert digests(out) == undisturbed
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("stage", ["checking weights", "pruning layers", "writing checkpoint"])
def test_a_run_stopped_at_any_stage_ends_with_the_same_bytes(tmp_path, stage, over, undisturbed):
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run(out, progress=StopInStage(stage, over=over))
    run(out)
    assert digests(out) == undisturbed
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_kill_9_at_any_moment_loses_nothing(tmp_path):
    """Real processes, real SIGKILL, at moments spread over a whole run."""
    child = Path(__file__).parents[1] / "killed_runs.py"
    options = ["--ratio", str(RATIO), "--device", "cpu", "--calibration", str(CALIBRATION)]
    options += ["--samples", "16", "--sequence-length", "64", "--quiet"]
    done = subprocess.run(
        [sys.executable, str(child), "10", "0", str(tmp_path), "prune", str(MODEL), *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] >= 6, report
    assert set(report["exit_codes"]) == {0}, done.stderr
    outs = {path.name: digests(path) for path in tmp_path.iterdir()}
    assert len(outs) == 12
    assert all(files == outs["undisturbed"] for files in outs.values())


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """An OUT whose run was stopped after layer 2."""
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run(out, progress=StopAfterLayer(2))
    return out


@pytest.mark.parametrize(
    "other",
    [{"ratio": 0.3}, {"method": "slimgpt"}, {"damping": 0.5}, {"seed": 1}],
    ids=lambda o: next(iter(o)),
)
def test_another_recipe_is_refused_and_loses_nothing(unfinished, other):
    before = digests(work_directory(unfinished))
    with pytest.raises(UsageError, match=r"unfinished run with another recipe.*--fresh"):
        run(unfinished, **other)
    assert digests(work_directory(unfinished)) == before
    assert run(unfinished).resumed_layers == 3


def test_another_model_is_refused(unfinished, tmp_path):
    other = tmp_path / "model"
    shutil.copytree(MODEL, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-6}))
    with pytest.raises(UsageError, match="another source"):
        run(unfinished, model=other)


def test_fresh_throws_the_unfinished_run_away(unfinished, undisturbed):
    assert run(unfinished, fresh=True).resumed_layers == 0
    assert digests(unfinished) == undisturbed


def test_a_damaged_block_is_found_and_fresh_named(unfinished):
    block = Journal(unfinished).block(1)
    block.write_bytes(block.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="--fresh"):
        run(unfinished)


def test_a_second_run_at_the_same_time_is_refused(unfinished):
    first = Journal(unfinished)
    first.open(json.loads((work_directory(unfinished) / "run.json").read_text()), fresh=False)
    try:
        with pytest.raises(UsageError, match="another run"):
            run(unfinished)
    finally:
        first.close()
    assert run(unfinished).resumed_layers == 3


def test_equal_runs_give_equal_bytes(tmp_path, undisturbed):
    run(tmp_path / "again")
    assert digests(tmp_path / "again") == undisturbed


def test_activations_on_disk_give_the_same_bytes(tmp_path, undisturbed):
    run(tmp_path / "mapped", activations="disk")
    assert digests(tmp_path / "mapped") == undisturbed


def test_a_finished_out_beside_stale_work_is_not_taken_for_another_recipe(tmp_path, undisturbed):
    """A kill during clean-up leaves an empty OUT.partial beside the finished OUT."""
    out = tmp_path / "out"
    run(out)
    others: list[dict[str, Any]] = [
        {"ratio": 0.4},
        {"ratio": 0.4, "fresh": True},
        {"method": "slimgpt"},
    ]
    for other in others:
        work_directory(out).mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="exists"):
            run(out, **other)
        assert digests(out) == undisturbed
    run(out)  # the same recipe: only the clean-up is left
    assert digests(out) == undisturbed
    assert not work_directory(out).exists()


def test_a_float32_model_resumes_to_the_same_bytes(tmp_path):
    """Stored weights of the compute type must not be used where they lie in the file."""
    from transformers import AutoModelForCausalLM

    model = tmp_path / "float32"
    shutil.copytree(MODEL, model)
    AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32").save_pretrained(model)
    run(tmp_path / "whole", model=model)
    for layer in (0, 3):
        out = tmp_path / f"stopped{layer}"
        with pytest.raises(Stopped):
            run(out, model=model, progress=StopAfterLayer(layer))
        run(out, model=model)
        assert digests(out) == digests(tmp_path / "whole")


def test_published_files_have_the_usual_permissions(tmp_path):
    run(tmp_path / "out")
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()}
    (tmp_path / "new").touch()
    assert modes == {(tmp_path / "new").stat().st_mode & 0o777}
