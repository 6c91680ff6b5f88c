"""Whatever happens to a job, nothing is lost and nothing half-done is published."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.cli import run
from tests.command_line import ENVIRONMENT, EXECUTABLE, INTEGRITY, USAGE, Desk
from tests.integration.test_compress import GATE, compress, write_recipe

KILLS = 20


def digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): file_sha256(path) for path in files}


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments_ends_with_the_same_bytes(desk: Desk) -> None:
    recipe = write_recipe(desk)
    outs = desk.root / "outs"
    outs.mkdir()
    child = Path(__file__).parents[1] / "killed_runs.py"
    done = subprocess.run(
        [
            *(sys.executable, str(child), str(KILLS), "0", str(outs)),
            *("compress", str(desk.model), "--recipe", str(recipe), "--device", "cpu", "--quiet"),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] >= KILLS * 3 / 4, report
    assert set(report["exit_codes"]) == {0}, done.stderr
    stages = {name for found in report["found"] for name in found}
    assert {"pruned.partial", "recovered.partial", "recover.json"} <= stages, stages
    released = {p.name: digests(p) for p in outs.iterdir() if not p.name.endswith(".report")}
    assert len(released) == KILLS + 2
    assert all(files == released["undisturbed"] for files in released.values())


@pytest.mark.slow
def test_kill_9_at_a_change_of_the_disk_ends_with_the_same_bytes(desk: Desk) -> None:
    """Of a job that only prunes, one change in six and each of the last twelve."""
    recipe = write_recipe(desk, recover=None, evaluate=None, gates={"weight_bytes": 1.0})
    outs = desk.root / "outs"
    outs.mkdir()
    options = ["--recipe", str(recipe), "--device", "cpu", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_steps", "6", str(outs), str(desk.model), *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.splitlines()[-1])
    assert len(ends) > 2 * 12
    undisturbed = digests(outs / "undisturbed")
    for end in ends:
        assert end["killed"] == -signal.SIGKILL, end
        assert digests(outs / end["out"]) == undisturbed, end
        assert not end["left"], end
    # Once nothing but the lock tells of a run, its OUT is one that exists.
    over = [end["code"] for end in ends].index(USAGE)
    assert len(ends) - over <= 4
    assert all(end["published"] for end in ends[over:])
    assert {end["code"] for end in ends[:over]} == {0}


@pytest.fixture(scope="module")
def judged_once(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was stopped by a gate after everything was measured; not to be changed."""
    desk = Desk(tmp_path_factory.mktemp("judged"))
    shutil.copytree(small, desk.model)
    write_recipe(desk, gates={"kl": 0.0})
    assert run(compress(desk, "--quiet")) == GATE
    return desk.root


@pytest.fixture
def judged(judged_once: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Desk:
    """A copy of it."""
    shutil.copytree(judged_once, tmp_path / "desk")
    return Desk(tmp_path / "desk", capture=capfd)


def go_on(desk: Desk) -> list[str]:
    return compress(desk, "--set", "gates.kl=9")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


SPOILT: dict[str, Callable[[Path], object]] = {
    "run.json": lambda work: cut_short(work / "run.json"),
    "a list for run.json": lambda work: (work / "run.json").write_text("[]"),
    "recover.json": lambda work: cut_short(work / "recover.json"),
    "evaluate.json": lambda work: cut_short(work / "evaluate.json"),
    "another outcome": lambda work: (work / "evaluate.json").write_text(
        (work / "evaluate.json").read_text().replace('"kl": 0', '"kl": 1')
    ),
    "recovered weights": lambda work: cut_short(work / "recovered" / "model.safetensors"),
    "recovered manifest": lambda work: (work / "recovered" / "slimgpt.json").unlink(),
    "recovered config": lambda work: cut_short(work / "recovered" / "config.json"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_corrupt_work_directory_is_found_and_fresh_named(judged: Desk, what: str) -> None:
    SPOILT[what](judged.out.with_name("out.partial"))
    ended = judged.run(go_on(judged))
    assert ended.code == INTEGRITY, ended
    assert "--fresh" in ended.stderr
    assert not judged.out.exists()


def test_fresh_mends_it(judged: Desk) -> None:
    cut_short(judged.out.with_name("out.partial") / "run.json")
    assert judged.run([*go_on(judged), "--fresh"]).code == 0


def test_a_changed_source_is_refused(judged: Desk) -> None:
    judged.edit_config(rms_norm_eps=1e-4)
    ended = judged.run(go_on(judged))
    assert ended.code == USAGE
    assert "another source" in ended.stderr
    assert "--fresh" in ended.stderr


def test_a_second_job_at_the_same_time_is_refused(judged: Desk) -> None:
    lock = judged.out.with_name("out.partial") / "slimgpt.lock"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ended = judged.run(go_on(judged))
    assert ended.code == USAGE
    assert "another run" in ended.stderr


@pytest.mark.parametrize("limit_kib", [20, 200, 1500])
def test_a_file_that_can_t_be_written_ends_in_4_and_a_second_run_goes_on(
    desk: Desk, limit_kib: int
) -> None:
    """A limit on the size of files stands for a full disk: the same writes fail."""
    write_recipe(desk)

    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kib * 1024, limit_kib * 1024))

    command = [str(EXECUTABLE), *compress(desk, "--quiet")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=full_disk, env=environment
    )
    assert done.returncode == ENVIRONMENT, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not desk.out.exists()
    assert desk.run(compress(desk)).code == 0


def test_a_real_disk_that_is_full_loses_nothing(desk: Desk) -> None:
    disk = desk.root / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        write_recipe(desk)
        here = Desk(desk.root)
        here.out = disk / "out"
        ballast = disk / "ballast"
        ballast.write_bytes(b"0" * (3 * 2**20))
        ended = desk.execute(compress(here, "--quiet"))
        assert ended.code == ENVIRONMENT, ended
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        assert not here.out.exists()
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        assert desk.run(compress(here)).code == 0
        assert here.out.exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_interrupting_ends_in_one_line_and_goes_on(desk: Desk) -> None:
    write_recipe(desk)
    process = subprocess.Popen(
        [EXECUTABLE, *compress(desk, "--quiet")], stderr=subprocess.PIPE, text=True
    )
    while not desk.out.with_name("out.partial").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert len(said.strip().splitlines()) == 1, said
    assert desk.run(compress(desk)).code == 0
