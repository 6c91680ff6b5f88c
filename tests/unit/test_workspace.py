"""The work directory of a run: locked, of one fingerprint, and gone in the right order."""

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.workspace import Workspace, is_work

FINGERPRINT = {"recipe": {"ratio": 0.25, "seed": 0}, "source": "a", "files": [["a.txt", "1"]]}


def claimed(out: Path, fingerprint: dict[str, Any] | None = None, *, works: bool = True) -> bool:
    """Claims the work directory, does some work and is killed."""
    workspace = Workspace(out)
    try:
        resumed = workspace.claim(fingerprint or FINGERPRINT, fresh=False)
        if works:
            (workspace.directory / "layer-0").write_text("done")
        return resumed
    finally:
        workspace.close()


def test_a_second_run_is_told_that_there_is_work_to_go_on_with(tmp_path: Path) -> None:
    assert not claimed(tmp_path / "out")
    assert claimed(tmp_path / "out")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"recipe": {"ratio": 0.5, "seed": 0}}, "another recipe.ratio:"),
        ({"recipe": {"seed": 1, "ratio": 0.5}}, "another recipe.seed, recipe.ratio:"),
        ({"recipe": {"ratio": 0.25, "seed": 0, "align": 8}}, "another recipe.align:"),
        ({"files": [["a.txt", "2"]]}, "another files:"),
        ({f"k{i}": i for i in range(8)}, "another k0, k1, k2, k3, k4 and 3 more:"),
    ],
)
def test_work_of_another_run_is_refused_by_the_keys_that_differ(
    tmp_path: Path, other: dict[str, Any], named: str
) -> None:
    claimed(tmp_path / "out")
    with pytest.raises(UsageError, match="unfinished run with") as raised:
        claimed(tmp_path / "out", FINGERPRINT | other)
    assert named in str(raised.value)
    assert "--fresh" in str(raised.value)


def test_a_run_that_did_nothing_yet_is_in_nobody_s_way(tmp_path: Path) -> None:
    other = FINGERPRINT | {"source": "b"}
    work = tmp_path / "out.partial"
    assert not claimed(tmp_path / "out", works=False)
    (work / "blocks").mkdir()
    assert not claimed(tmp_path / "out", other, works=False)
    assert json.loads((work / "run.json").read_text())["source"] == "b"
    assert not (work / "blocks").exists()


def test_a_run_that_is_killed_while_it_cleans_up_is_still_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "out")
    workspace.claim(FINGERPRINT, fresh=False)
    for name in ("pruned", "recovered"):
        (workspace.directory / name).mkdir()
    (workspace.directory / "release.json").write_text("{}")

    class Killed(BaseException):
        pass

    removed: list[Path] = []

    def one_and_no_more(path: Path) -> None:
        if removed:
            raise Killed
        removed.append(path)
        path.rmdir()

    monkeypatch.setattr(shutil, "rmtree", one_and_no_more)
    with pytest.raises(Killed):
        workspace.remove()
    workspace.close()
    assert (
        len(list(workspace.directory.iterdir())) == 4
    )  # a folder, run.json, a record and the lock
    assert claimed(tmp_path / "out")


def test_what_is_left_at_the_very_end_still_counts_as_ours(tmp_path: Path) -> None:
    claimed(tmp_path / "out")
    work = tmp_path / "out.partial"
    (work / "run.json").unlink()
    assert is_work(work)
    assert not claimed(tmp_path / "out")


def test_a_file_system_without_locks_is_no_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(EnvironmentProblem, match=r"can't be locked .*another file system"):
        claimed(tmp_path / "out")
