"""A killed recovery goes on where it was, and ends with the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from slimgpt.errors import UsageError
from slimgpt.progress import Silent
from slimgpt.prune.journal import Journal
from slimgpt.workspace import work_directory
from tests.recovering import (
    Recovery,
    Stages,
    StopAt,
    Stopped,
    checkpoints,
    digests,
    quick_collections,
)
from tests.tiny_models import LENGTH, Tiny, write_rows


class StopEverywhere(Silent):
    """Stops at the first moment that was not stopped at before.

    Attributes:
        moments: that were seen: begin and end of stages, steps, and looks at the held-out examples.
        over: whether everything that came was seen before.
    """

    def __init__(self, moments: list[tuple[Any, ...]]) -> None:
        self.moments, self.over, self._running = moments, True, ""

    def start(self, stage: str, total: int) -> None:
        self._running, self._step = stage, 0
        self._see("begin", stage)

    def advance(self, steps: int = 1) -> None:
        self._step += steps
        if self._running == "recovering":
            self._see("step", self._step)

    def finish(self) -> None:
        if self.over:  # not while one is on its way
            self._see("end", self._running)

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        self._see(event, fields["step"])

    def _see(self, *moment: Any) -> None:
        if moment not in self.moments:
            self.moments.append(moment)
            self.over = False
            raise Stopped


@pytest.fixture(scope="module")
def recovery(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recovery]:
    with quick_collections():
        yield Recovery(tiny, tmp_path_factory.mktemp("recovery"))


@pytest.fixture
def unfinished(tmp_path: Path, recovery: Recovery) -> Path:
    """An OUT whose run was stopped at step 4, when only the checkpoint of step 2 was whole."""
    recovery.stop(tmp_path / "out", StopAt(4))
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-2"]
    return tmp_path / "out"


def test_a_run_stopped_at_every_moment_in_turn_ends_with_the_same_bytes(tmp_path, recovery):
    out = tmp_path / "out"
    moments: list[tuple[Any, ...]] = []
    while True:
        stop = StopEverywhere(moments)
        try:
            recovery.run(out, progress=stop)
        except Stopped:
            continue
        assert stop.over
        break
    assert [number for kind, number in moments if kind == "step"] == [1, 2, 3, 4, 5, 6]
    assert [number for kind, number in moments if kind == "held-out"] == list(recovery.LOOKS)
    stages = ["checking weights", "held-out loss", "recovering", "merging"]
    stages += ["checking the merged model", "writing checkpoint"]
    for kind in ("begin", "end"):
        assert [stage for what, stage in moments if what == kind] == stages
    assert digests(out) == recovery.undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("step", Recovery.LOOKS)
def test_a_run_stopped_once_ends_with_the_same_bytes(tmp_path, recovery, step):
    with pytest.raises(Stopped):
        recovery.run(tmp_path / "out", progress=StopAt(step))
    assert not (tmp_path / "out").exists()
    recovery.run(tmp_path / "out")
    assert digests(tmp_path / "out") == recovery.undisturbed


def test_half_a_checkpoint_is_thrown_away(unfinished, recovery):
    """As a kill in the middle of writing leaves it: files cut short, no mark."""
    whole = checkpoints(unfinished)[0]
    half = whole.with_name("checkpoint-4")
    shutil.copytree(whole, half)
    (half / "slimgpt-whole.json").unlink()
    for path in half.iterdir():
        os.truncate(path, path.stat().st_size // 2)
    (whole.parent / "checkpoint-6").mkdir()
    recovery.run(unfinished)
    assert digests(unfinished) == recovery.undisturbed


def test_one_checkpoint_is_kept_at_a_time(tmp_path, recovery):
    with pytest.raises(Stopped):
        recovery.run(tmp_path / "out", progress=StopAt(6))
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-4"]


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing(tmp_path, recovery):
    """Real processes, real SIGKILL, at moments spread over a whole run."""
    child = Path(__file__).parents[1] / "killed_runs.py"
    options = ["--data", str(recovery.rows), "--batch-size", "8", "--micro-batch", "4", "--quiet"]
    options += ["--max-length", str(LENGTH), "--evaluations", "3", "--max-steps", "6"]
    options += ["--learning-rate", "1e-2", "--warmup-steps", "1", "--device", "cpu"]
    outs = tmp_path / "outs"
    outs.mkdir()
    done = subprocess.run(
        [sys.executable, str(child), "5", "0", str(outs), "recover", str(recovery.model), *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] >= 2, report  # a busy machine is late with some
    assert set(report["exit_codes"]) == {0}, done.stderr
    found = {path.name: digests(path) for path in outs.iterdir()}
    assert len(found) == 7
    assert all(files == found["undisturbed"] for files in found.values())


# -- another run ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"rank": 4},
        {"seed": 1},
        {"micro_batch": 8},
        {"learning_rate": 2e-2},
        {"dtype": "bfloat16"},
        {"max_steps": 8},
    ],
    ids=lambda o: next(iter(o)),
)
def test_another_recipe_is_refused_and_loses_nothing(unfinished, recovery, other):
    before = digests(work_directory(unfinished))
    with pytest.raises(UsageError, match=r"unfinished run with another recipe.*--fresh"):
        recovery.run(unfinished, **other)
    assert digests(work_directory(unfinished)) == before


def test_other_data_another_model_and_another_teacher_are_refused(unfinished, recovery, tmp_path):
    more = write_rows(tmp_path / "rows.jsonl", recovery.ROWS + 1)
    other = tmp_path / "model"
    shutil.copytree(recovery.model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-6}))
    given: list[dict[str, Any]] = [
        {"data": more},
        {"source": other},
        {"dense": recovery.model, "distill_weight": 0.5},
    ]
    for changed in given:
        with pytest.raises(UsageError, match="unfinished run with another recipe"):
            recovery.run(unfinished, **changed)
    recovery.run(unfinished)
    assert digests(unfinished) == recovery.undisturbed


def test_a_model_and_data_that_were_moved_are_the_same(unfinished, recovery, tmp_path):
    moved = tmp_path / "elsewhere" / recovery.model.name
    shutil.copytree(recovery.model, moved)
    shutil.copy(recovery.rows, tmp_path / "elsewhere" / recovery.rows.name)
    recovery.run(unfinished, source=moved, data=tmp_path / "elsewhere" / recovery.rows.name)
    assert digests(unfinished) == recovery.undisturbed


def test_fresh_throws_the_unfinished_run_away(unfinished, recovery):
    stages = Stages()
    (work_directory(unfinished) / "training" / "best.safetensors").write_bytes(b"damaged")
    recovery.run(unfinished, fresh=True, progress=stages)
    assert stages.begun[0] == "held-out loss"
    assert digests(unfinished) == recovery.undisturbed


def test_a_second_run_at_the_same_time_is_refused(unfinished, recovery):
    first = Journal(unfinished)
    first.open(json.loads((work_directory(unfinished) / "run.json").read_text()), fresh=False)
    try:
        with pytest.raises(UsageError, match="another run"):
            recovery.run(unfinished)
    finally:
        first.close()


def test_a_finished_out_beside_stale_work_needs_only_the_clean_up(tmp_path, recovery):
    """A kill while clearing up leaves work beside the finished OUT: it is not trained again."""
    out = tmp_path / "out"
    first = recovery.run(out)
    others: list[dict[str, Any]] = [{"rank": 4}, {"rank": 4, "fresh": True}]
    for other in others:
        work_directory(out).mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="exists"):
            recovery.run(out, **other)
    stages = Stages()
    second = recovery.run(out, progress=stages)
    assert not stages.begun
    assert (second.quality, second.data) == (first.quality, first.data)
    assert digests(out) == recovery.undisturbed
    assert not work_directory(out).exists()
