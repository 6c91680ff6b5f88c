"""``slimgpt compress --dry-run``: it writes nothing, and says what the run would say."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import ENVIRONMENT, USAGE, Desk
from tests.integration.test_compress import GATE, compress, write_recipe


def document(desk: Desk, *options: str) -> dict[str, Any]:
    """Of a dry run, which changes nothing."""
    before = desk.contents()
    ended = desk.run(compress(desk, "--dry-run", "--json", *options))
    assert ended.code == 0, ended
    assert desk.contents() == before
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_dry_run_writes_nothing_and_tells_the_cost(desk: Desk) -> None:
    write_recipe(desk)
    found = document(desk)
    assert [c["stage"] for c in found["costs"]] == ["prune", "recover", "evaluate"]
    assert all(c["memory_bytes"] > 0 for c in found["costs"])
    assert found["problems"] == []
    assert found["uncounted"] == ""


def test_sets_of_the_hub_are_not_fetched_and_named_as_not_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("a dry run asks the hub")

    monkeypatch.setattr(datasets, "load_dataset", fetched)
    write_recipe(desk)
    hub = ["--set", "recover.data=[alpaca, wikitext2]", "--set", "prune.calibration=c4"]
    found = document(desk, *hub)
    assert found["uncounted"] == "alpaca, wikitext2"
    known = document(desk)
    memory = [c["memory_bytes"] for c in found["costs"]]
    assert memory == [c["memory_bytes"] for c in known["costs"]]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("prune.samples=100000", "prune.calibration has 128 rows"),
        ("prune.sequence_length=100000", "prune.sequence_length 100000 is beyond"),
        ("recover.data=few.jsonl", "recover.data has 1 different usable examples"),
        ("evaluate.texts=[{file: few.jsonl, window: 64}]", "evaluate.texts "),
    ],
)
def test_data_that_the_run_would_refuse_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, setting: str, says: str
) -> None:
    monkeypatch.chdir(desk.root)
    Path("few.jsonl").write_text('{"text": "a b c"}\n' * 3)
    write_recipe(desk)
    desk.refuses(compress(desk, "--dry-run", "--quiet", "--set", setting), USAGE, says)


def test_places_that_the_run_would_refuse_are_refused(desk: Desk) -> None:
    write_recipe(desk)
    dry = ["--recipe", str(desk.root / "release.yaml"), "--dry-run"]
    inside = desk.model / "out"
    desk.refuses(["compress", str(desk.model), str(inside), *dry], USAGE, "inside MODEL")
    desk.refuses(compress(desk, "--dry-run", "--report", str(desk.model)), USAGE, "--report")


def test_too_little_memory_ends_in_4_and_the_page_is_there(desk: Desk) -> None:
    write_recipe(desk)
    before = desk.contents()
    options = ["--set", "prune.samples=100000000", "--set", "prune.sequence_length=128"]
    ended = desk.run(compress(desk, "--dry-run", "--json", *options))
    assert ended.code == ENVIRONMENT
    (problem,) = json.loads(ended.stdout)["problems"]
    assert problem in ended.stderr
    assert "lower prune.samples or prune.sequence_length" in problem
    assert desk.contents() == before


@pytest.fixture
def small_disk(desk: Desk) -> Iterator[Path]:
    """A disk of 1 MiB, where this may be mounted."""
    disk = desk.root / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_too_little_disk_ends_in_4_as_the_run_itself_does(desk: Desk, small_disk: Path) -> None:
    write_recipe(desk)
    desk.out = small_disk / "out"
    for options in (["--dry-run"], []):
        ended = desk.run(compress(desk, "--quiet", *options))
        assert ended.code == ENVIRONMENT, ended
        assert f"of disk at {small_disk}" in ended.stderr
    assert not desk.out.exists()


def test_a_plan_that_misses_a_gate_of_size_is_told_before_anything_is_pruned(desk: Desk) -> None:
    write_recipe(desk, recover=None, gates={"weight_bytes": 0.5, "kl": 0.0})
    ended = desk.run(compress(desk, "--dry-run"))
    assert ended.code == GATE
    assert "1 of 1 gates missed: weight_bytes" in ended.stderr
    assert "MISSED weight_bytes" in " ".join(ended.stdout.split())
    assert desk.run(compress(desk, "--dry-run", "--set", "gates.weight_bytes=1.0")).code == 0
