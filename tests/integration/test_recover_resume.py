"""A killed recovery goes on where it was, and ends with the bytes of an undisturbed one."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimgpt.errors import (
    EnvironmentProblem,
    GateMissed,
    IntegrityError,
    SlimGPTError,
    UsageError,
)
from slimgpt.progress import Progress, Silent
from slimgpt.prune.journal import Journal
from slimgpt.recover.driver import recover
from slimgpt.recover.options import RecoverOptions
from slimgpt.recover.result import RecoverResult
from slimgpt.workspace import work_directory
from tests.tiny_models import LENGTH, Tiny, write_rows

# 27 examples to train on: 4 steps an epoch, so that checkpoints fall into an epoch and on its end.
QUICK = RecoverOptions(
    batch_size=8,
    micro_batch=4,
    max_length=LENGTH,
    held_out=8,
    evaluations=3,
    max_steps=6,
    learning_rate=1e-2,
    warmup_steps=1,
    device="cpu",
)
ROWS, LOOKS = 30, (2, 4, 6)


class Stopped(Exception):
    """Stands for the end of the process."""


class StopAt(Silent):
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


class StopOnce(Silent):
    """Stops when the held-out loss of a step is known, before its checkpoint is written."""

    def __init__(self, step: int) -> None:
        self._step = step

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        if fields["step"] == self._step:
            raise Stopped


class Stages(Silent):
    """Remembers which stages began."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def start(self, stage: str, total: int) -> None:
        self.begun.append(stage)


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """transformers collects garbage in every training; what pytest holds is none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Path:
    return tiny.pruned(tiny.dense("llama-mha").path)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


@pytest.fixture
def run(model: Path, rows: Path) -> Any:
    """A recovery to ``out`` as QUICK has it, but for what is given."""

    def run(
        out: Path,
        *,
        source: Path = model,
        data: Path = rows,
        progress: Progress | None = None,
        dense: Path | None = None,
        **options: Any,
    ) -> RecoverResult:
        settings = replace(QUICK, **options)
        return recover(source, out, [str(data)], settings, dense=dense, progress=progress)

    return run


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, model: Path, rows: Path
) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    recover(model, out, [str(rows)], QUICK)
    return digests(out)


@pytest.fixture
def unfinished(tmp_path: Path, run: Any) -> Path:
    """An OUT whose run was stopped at step 4, when only the checkpoint of step 2 was whole."""
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run(out, progress=StopOnce(4))
    assert [path.name for path in checkpoints(out)] == ["checkpoint-2"]
    return out


def checkpoints(out: Path) -> list[Path]:
    return sorted((work_directory(out) / "training").glob("checkpoint-*"))


def test_a_run_stopped_at_every_moment_in_turn_ends_with_the_same_bytes(tmp_path, run, undisturbed):
    out = tmp_path / "out"
    moments: list[tuple[Any, ...]] = []
    while True:
        stop = StopAt(moments)
        try:
            run(out, progress=stop)
        except Stopped:
            continue
        assert stop.over
        break
    assert [number for kind, number in moments if kind == "step"] == [1, 2, 3, 4, 5, 6]
    assert [number for kind, number in moments if kind == "held-out"] == list(LOOKS)
    stages = ["held-out loss", "recovering", "merging", "checking the merged model"]
    stages += ["writing checkpoint"]
    for kind in ("begin", "end"):
        assert [stage for what, stage in moments if what == kind] == stages
    assert digests(out) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("step", LOOKS)
def test_a_run_stopped_once_ends_with_the_same_bytes(tmp_path, run, undisturbed, step):
    with pytest.raises(Stopped):
        run(tmp_path / "out", progress=StopOnce(step))
    assert not (tmp_path / "out").exists()
    run(tmp_path / "out")
    assert digests(tmp_path / "out") == undisturbed


def test_half_a_checkpoint_is_thrown_away(unfinished, run, undisturbed):
    """As a kill in the middle of writing leaves it: files cut short, no mark."""
    whole = checkpoints(unfinished)[0]
    half = whole.with_name("checkpoint-4")
    shutil.copytree(whole, half)
    (half / "slimgpt-whole.json").unlink()
    for path in half.iterdir():
        os.truncate(path, path.stat().st_size // 2)
    (whole.parent / "checkpoint-6").mkdir()
    run(unfinished)
    assert digests(unfinished) == undisturbed


def test_one_checkpoint_is_kept_at_a_time(tmp_path, run):
    with pytest.raises(Stopped):
        run(tmp_path / "out", progress=StopOnce(6))
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-4"]


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing(tmp_path, model, rows):
    """Real processes, real SIGKILL, at moments spread over a whole run."""
    child = Path(__file__).parents[1] / "killed_runs.py"
    options = ["--data", str(rows), "--batch-size", "8", "--micro-batch", "4", "--quiet"]
    options += ["--max-length", str(LENGTH), "--evaluations", "3", "--max-steps", "6"]
    options += ["--learning-rate", "1e-2", "--warmup-steps", "1", "--device", "cpu"]
    outs = tmp_path / "outs"
    outs.mkdir()
    done = subprocess.run(
        [sys.executable, str(child), "4", "0", str(outs), "recover", str(model), *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] >= 3, report
    assert set(report["exit_codes"]) == {0}, done.stderr
    found = {path.name: digests(path) for path in outs.iterdir()}
    assert len(found) == 6
    assert all(files == found["undisturbed"] for files in found.values())


# -- damage ----------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_text("{}")


DAMAGE: list[tuple[str, Callable[[Path], None]]] = [
    ("run.json", cut),
    ("training/before.json", cut),
    ("training/before.json", empty),
    ("training/checkpoint-2/optimizer.pt", cut),
    ("training/checkpoint-2/adapter_model.safetensors", flip),
    ("training/checkpoint-2/rng_state.pth", Path.unlink),
    ("training/checkpoint-2/slimgpt-whole.json", cut),
    ("training/best.safetensors", cut),
]
DAMAGE_WHEN_TRAINED: list[tuple[str, Callable[[Path], None]]] = [
    ("training/trained.json", cut),
    ("training/trained.json", empty),
    ("training/best.safetensors", flip),
    ("training/best.safetensors", Path.unlink),
]


def refuses_damage(out: Path, name: str, spoil: Callable[[Path], None], run: Any) -> None:
    spoil(work_directory(out) / name)
    with pytest.raises(IntegrityError, match=r"damaged: start again with --fresh"):
        run(out)
    assert not out.exists()


@pytest.mark.parametrize(("name", "spoil"), DAMAGE)
def test_damaged_work_is_found_and_fresh_named(unfinished, run, name, spoil):
    refuses_damage(unfinished, name, spoil, run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path, rows: Path) -> Path:
    """An OUT whose run was stopped when everything but the clean-up of the merge was done."""

    class StopBeforePublishing(Silent):
        def start(self, stage: str, total: int) -> None:
            if stage == "writing checkpoint":
                raise Stopped

    out = tmp_path_factory.mktemp("trained") / "out"
    with pytest.raises(Stopped):
        recover(model, out, [str(rows)], QUICK, progress=StopBeforePublishing())
    return out


@pytest.fixture
def nearly(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(work_directory(trained), work_directory(tmp_path / "out"))
    return tmp_path / "out"


@pytest.mark.parametrize(("name", "spoil"), DAMAGE_WHEN_TRAINED)
def test_damage_after_training_is_found_and_fresh_named(nearly, run, name, spoil):
    refuses_damage(nearly, name, spoil, run)


def test_merged_blocks_are_not_trusted_but_made_again(nearly, run, undisturbed):
    journal = Journal(nearly)
    cut(journal.block(1))
    flip(journal.block(2))
    flip(journal.outer)
    run(nearly)
    assert digests(nearly) == undisturbed


def test_a_finished_training_is_not_repeated(nearly, run, undisturbed):
    stages = Stages()
    run(nearly, progress=stages)
    assert stages.begun == ["merging", "checking the merged model", "writing checkpoint"]
    assert digests(nearly) == undisturbed


# -- another run -----------------------------------------------------------------------------------


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
def test_another_recipe_is_refused_and_loses_nothing(unfinished, run, other):
    before = digests(work_directory(unfinished))
    with pytest.raises(UsageError, match=r"unfinished run with another recipe.*--fresh"):
        run(unfinished, **other)
    assert digests(work_directory(unfinished)) == before


def test_other_data_another_model_and_another_teacher_are_refused(
    unfinished, run, model, rows, tmp_path, undisturbed
):
    more = write_rows(tmp_path / "rows.jsonl", ROWS + 1)
    other = tmp_path / "model"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-6}))
    given: list[dict[str, Any]] = [
        {"data": more},
        {"source": other},
        {"dense": model, "distill_weight": 0.5},
    ]
    for changed in given:
        with pytest.raises(UsageError, match="unfinished run with another recipe"):
            run(unfinished, **changed)
    run(unfinished)
    assert digests(unfinished) == undisturbed


def test_a_model_and_data_that_were_moved_are_the_same(
    unfinished, run, model, rows, tmp_path, undisturbed
):
    moved = tmp_path / "elsewhere" / model.name
    shutil.copytree(model, moved)
    shutil.copy(rows, tmp_path / "elsewhere" / rows.name)
    run(unfinished, source=moved, data=tmp_path / "elsewhere" / rows.name)
    assert digests(unfinished) == undisturbed


def test_fresh_throws_the_unfinished_run_away(unfinished, run, undisturbed):
    stages = Stages()
    (work_directory(unfinished) / "training" / "best.safetensors").write_bytes(b"damaged")
    run(unfinished, fresh=True, progress=stages)
    assert stages.begun[0] == "held-out loss"
    assert digests(unfinished) == undisturbed


def test_a_second_run_at_the_same_time_is_refused(unfinished, run):
    first = Journal(unfinished)
    first.open(json.loads((work_directory(unfinished) / "run.json").read_text()), fresh=False)
    try:
        with pytest.raises(UsageError, match="another run"):
            run(unfinished)
    finally:
        first.close()


def test_a_finished_out_beside_stale_work_needs_only_the_clean_up(tmp_path, run, undisturbed):
    """A kill while clearing up leaves work beside the finished OUT: it is not trained again."""
    out = tmp_path / "out"
    first = run(out)
    others: list[dict[str, Any]] = [{"rank": 4}, {"rank": 4, "fresh": True}]
    for other in others:
        work_directory(out).mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="exists"):
            run(out, **other)
    stages = Stages()
    second = run(out, progress=stages)
    assert not stages.begun
    assert (second.quality, second.data) == (first.quality, first.data)
    assert digests(out) == undisturbed
    assert not work_directory(out).exists()


# -- a recovery that made nothing better -----------------------------------------------------------


def misses(
    out: Path, run: Any, says: str, stages: list[list[str]], **options: Any
) -> list[GateMissed]:
    """Runs twice: both say the same, nothing is published, and these stages begin."""
    missed = []
    for expected in stages:
        watcher = Stages()
        with pytest.raises(GateMissed, match=says) as refused:
            run(out, progress=watcher, **options)
        missed.append(refused.value)
        assert watcher.begun == expected
        assert "nothing is written" in str(refused.value)
        assert "--fresh" in str(refused.value)
        assert not out.exists()
    assert str(missed[0]) == str(missed[1])
    return missed


def test_a_training_that_makes_it_worse_is_refused_and_at_once_the_second_time(tmp_path, run):
    """It learns rows of noise by heart, and is looked at when it has."""
    noise = write_rows(tmp_path / "noise.jsonl", ROWS, kinds=125)
    options = {"data": noise, "learning_rate": 0.03, "max_steps": 40, "evaluations": 1}
    says = r"made the held-out loss no better \(5\.\d+ nats a token before, [\d.]+ at its best\)"
    stages = [["held-out loss", "recovering"], []]
    first, second = misses(tmp_path / "out", run, says, stages, **options)
    assert first.measured == second.measured
    assert first.limit == second.limit
    assert first.measured
    assert first.limit
    assert first.measured > first.limit
    run(tmp_path / "out", fresh=True)  # other data, and the flag that the message names


def test_a_gain_that_is_lost_in_rounding_is_refused(tmp_path, run, tiny):
    """All weights are so large that updates are below half their step in bfloat16."""
    source = tmp_path / "model"
    shutil.copytree(tiny.dense("llama-bfloat16").path, source)
    weights = load_file(source / "model.safetensors")
    large = {n: torch.where(w < 0, w - 0.1, w + 0.1) for n, w in weights.items()}
    save_file(large, source / "model.safetensors", {"format": "pt"})
    after = ["merging", "checking the merged model"]
    says = "merged and stored as bfloat16, the recovered weights have a held-out loss of"
    stages = [["held-out loss", "recovering", *after], after]
    first, _ = misses(tmp_path / "out", run, says, stages, source=source, learning_rate=1e-5)
    assert first.measured == first.limit


@pytest.mark.parametrize(
    ("evaluations", "what"), [(1, "training loss"), (6, "held-out loss")], ids=lambda x: str(x)
)
def test_a_training_that_diverges_says_so(tmp_path, run, evaluations, what):
    stages = [["held-out loss", "recovering"], ["recovering"]]
    says = f"the {what} is no number, the training has diverged.*give a lower --learning-rate"
    misses(
        tmp_path / "out",
        run,
        says,
        stages,
        learning_rate=1e30,
        warmup_steps=0,
        evaluations=evaluations,
    )


# -- the machine -----------------------------------------------------------------------------------


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """As on a full disk, writes fail in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size_bytes", [100, 20_000, 90_000, 150_000])
def test_a_disk_that_fills_up_costs_the_run_nothing(tmp_path, run, undisturbed, size_bytes):
    out = tmp_path / "out"
    with largest_file(size_bytes), pytest.raises((SlimGPTError, OSError)) as full:
        run(out)
    assert isinstance(full.value, EnvironmentProblem | OSError)  # both end with the same code
    assert not out.exists()
    run(out)
    assert digests(out) == undisturbed
