"""Records of stages: done once under a key, whole or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from slimgpt.compress.stages import Stages
from slimgpt.errors import IntegrityError


class Work:
    """A stage whose runs are counted."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self) -> dict[str, Any]:
        self.done += 1
        return {"answer": 0.1, "names": ["a"], "times": self.done}


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    work = Work()
    first = Stages(tmp_path).run("evaluate", {"text": "a"}, work)
    second = Stages(tmp_path)
    assert second.run("evaluate", {"text": "a"}, work) == first
    assert work.done == 1
    assert second.reused == ["evaluate"]


def test_its_time_is_that_of_the_run_that_did_it(tmp_path: Path) -> None:
    first, second = Stages(tmp_path), Stages(tmp_path)
    first.run("evaluate", {}, Work())
    second.run("evaluate", {}, Work())
    assert second.seconds == first.seconds


def test_under_another_key_it_is_done_again_and_that_counts_from_then_on(tmp_path: Path) -> None:
    work = Work()
    for text in ("a", "b", "b"):
        outcome = Stages(tmp_path).run("evaluate", {"text": text}, work)
    assert outcome["times"] == work.done == 2


def test_the_order_of_a_key_does_not_matter(tmp_path: Path) -> None:
    work = Work()
    Stages(tmp_path).run("evaluate", {"a": 1, "b": {"c": 2, "d": 3}}, work)
    Stages(tmp_path).run("evaluate", {"b": {"d": 3, "c": 2}, "a": 1}, work)
    assert work.done == 1


def test_run_anew_takes_no_record_and_leaves_one(tmp_path: Path) -> None:
    work = Work()
    for _ in range(2):
        Stages(tmp_path).run_anew("release", {}, work)
    assert work.done == 2
    finished = Stages(tmp_path).finished("release")
    assert finished
    assert finished["times"] == 2


def test_a_stage_that_never_ran_is_not_finished(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    assert stages.finished("release") is None
    assert stages.reused == []


def test_a_stage_that_failed_has_a_time_and_no_record(tmp_path: Path) -> None:
    def fails() -> dict[str, Any]:
        raise OSError("no space left")

    stages = Stages(tmp_path)
    with pytest.raises(OSError, match="no space"):
        stages.run("prune", {}, fails)
    assert stages.seconds["prune"] >= 0
    assert not list(tmp_path.iterdir())


def test_an_outcome_that_json_can_t_hold_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Stages(tmp_path).run("evaluate", {}, lambda: {"kl": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spoilt",
    ["", "[]", "{}", "null", '{"sha256": "0"}', "{\udcff"],
    ids=["empty", "a list", "an empty object", "null", "a wrong digest", "no UTF-8"],
)
def test_a_damaged_record_is_refused_and_fresh_named(tmp_path: Path, spoilt: str) -> None:
    Stages(tmp_path).run("evaluate", {}, Work())
    (tmp_path / "evaluate.json").write_text(spoilt, "utf-8", "surrogateescape")
    with pytest.raises(IntegrityError, match=r"evaluate\.json is damaged: .*--fresh"):
        Stages(tmp_path).run("evaluate", {}, Work())


@pytest.mark.parametrize("entry", ["key", "seconds", "outcome"])
def test_a_record_that_was_edited_is_refused(tmp_path: Path, entry: str) -> None:
    Stages(tmp_path).run("evaluate", {}, Work())
    path = tmp_path / "evaluate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {entry: {"kl": 0.0}}))
    with pytest.raises(IntegrityError, match="damaged"):
        Stages(tmp_path).finished("evaluate")


def test_a_beginning_is_known_under_its_own_key_alone(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    assert not stages.begun("export a/b", {"text": "a"})
    stages.begin("export a/b", {"text": "a"})
    assert Stages(tmp_path).begun("export a/b", {"text": "a"})
    assert not Stages(tmp_path).begun("export a/b", {"text": "b"})
    assert Stages(tmp_path).finished("export a/b") is None
    assert [p.parent for p in tmp_path.rglob("*")] == [tmp_path], "a slash makes no folder"
