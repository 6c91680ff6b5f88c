"""Results are saved whole, checked before and after, and refused in one line."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.writer import publish
from slimgpt.cli import run
from slimgpt.errors import EnvironmentProblem, IntegrityError, Unresolved, UsageError
from slimgpt_bench.results import envelope, read, require_free, save, saving
from tests import result_samples as samples


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    document, requests = samples.load()
    save(tmp_path / "run", document, requests)
    return tmp_path / "run"


def edited(run: Path, **changes: Any) -> Path:
    file = run / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return run


@pytest.mark.parametrize(
    "document",
    [samples.latency(), samples.compare(), samples.capacity(), samples.judged()],
    ids=lambda d: d["kind"],
)
def test_what_is_saved_is_read_back(tmp_path, document):
    save(tmp_path / "run", document)
    told = json.loads(json.dumps(document))
    assert read(tmp_path / "run") == told
    assert read(tmp_path / "run" / "result.json") == told


def test_a_document_of_json_alone_can_be_read(tmp_path):
    file = tmp_path / "printed.json"
    file.write_text(json.dumps(samples.compare()))
    assert read(file)["kind"] == "compare"


def test_raw_requests_are_kept_one_a_line(saved):
    lines = (saved / "requests.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == samples.load()[1]


def test_a_saved_directory_holds_what_it_should_and_others_can_read_it(saved):
    names = {path.name for path in saved.iterdir()}
    reports = {f"llm-d-{i}.yaml" for i in range(5)}
    assert names == {"result.json", "result.csv", "requests.jsonl"} | reports
    assert saved.stat().st_mode & 0o777 == 0o755 & ~_mask()
    assert not list(saved.parent.glob(".run*"))


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def kept(place: Path) -> dict[str, Any]:
    """What is left of a measurement that is no result."""
    assert {path.name for path in place.iterdir()} <= {"unchecked.json", "requests.jsonl"}
    with pytest.raises(UsageError, match="broke the schema when it was saved"):
        read(place)
    found: dict[str, Any] = json.loads((place / "unchecked.json").read_text())
    return found


def test_what_breaks_our_own_schema_is_kept_and_is_no_result(tmp_path):
    document = samples.compare()
    del document["cells"][0]["tpot_s"]["verdict"]
    with pytest.raises(Unresolved, match=r"cells\.0\.tpot_s\.verdict: Field.* is in .*run$"):
        save(tmp_path / "run", document, [{"ok": True}])
    assert kept(tmp_path / "run") == json.loads(json.dumps(document))
    assert (tmp_path / "run" / "requests.jsonl").read_text() == '{"ok": true}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, "fast", True, None])
def test_what_is_no_number_is_no_result(tmp_path, wrong):
    document = samples.latency()
    document["ttft_s"]["median"] = wrong
    with pytest.raises(Unresolved, match=r"JSON|ttft_s"):
        save(tmp_path / "run", document)
    assert kept(tmp_path / "run")["cells"] == json.loads(json.dumps(document["cells"]))


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        *(("settings", x) for x in (math.nan, Path("x"), {1}, "\udc80")),
        *(("requests", x) for x in (math.nan, Path("x"), {1})),
    ],
    ids=repr,
)
def test_what_is_no_json_hides_nowhere_and_loses_nothing(tmp_path, where, wrong):
    document, requests = samples.load()
    if where == "settings":
        document["settings"] = {"temperature": wrong}
    else:
        requests[3]["ttft_s"] = wrong
    with pytest.raises(Unresolved, match="what was measured is no result: "):
        save(tmp_path / "run", document, requests)
    assert kept(tmp_path / "run")["levels"]
    assert len((tmp_path / "run" / "requests.jsonl").read_text().splitlines()) == len(requests)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"valid": False}, "an invalid result that does not say why"),
        ({"requests": {"sent": 9, "ok": 8, "failed": {}}}, "do not make up those that were sent"),
        ({"kind": "speed"}, "speed"),
        ({"cells": []}, "cells: List should have at least 1 item"),
    ],
)
def test_documents_that_contradict_themselves_are_no_results(tmp_path, change, said):
    with pytest.raises(Unresolved, match=said):
        save(tmp_path / "run", samples.latency(**change))
    assert kept(tmp_path / "run")["slimgpt_version"]


def test_a_verdict_needs_an_interval(tmp_path):
    document = samples.compare()
    document["cells"][0]["e2e_s"]["interval"] = "insufficient"
    with pytest.raises(Unresolved, match="a verdict without an interval"):
        save(tmp_path / "run", document)


def test_a_report_for_others_that_can_not_be_made_leaves_the_result(tmp_path):
    document, requests = samples.load()
    for record in requests:
        del record["phase"]
    with pytest.raises(Unresolved, match=r"the llm-d reports can't be made: KeyError\('phase'\)"):
        save(tmp_path / "run", document, requests)
    assert read(tmp_path / "run")["kind"] == "load"
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"result.json", "result.csv", "requests.jsonl"}


def test_a_directory_that_came_in_the_meantime_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    with pytest.raises(UsageError, match=r"somebody else in the meantime: .* is in .*run-3$"):
        save(tmp_path / "run", samples.compare())
    assert not list((tmp_path / "run").iterdir())
    assert read(tmp_path / "run-3")["kind"] == "compare"


def test_a_full_disk_sends_the_result_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))

    def full(work: Path, place: Path) -> None:
        if place.parent == tmp_path:
            raise OSError(28, "No space left on device")
        publish(work, place)

    monkeypatch.setattr(saving, "publish", full)
    with pytest.raises(EnvironmentProblem, match=r"written: No space left .* is in .*elsewhere"):
        save(tmp_path / "run", samples.compare())
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    (place,) = (tmp_path / "elsewhere").glob("*/result")
    assert read(place)["kind"] == "compare"


def test_a_name_as_long_as_a_name_may_be_can_be_saved_to(tmp_path):
    require_free(tmp_path / ("x" * 255))
    save(tmp_path / ("x" * 255), samples.compare())
    assert read(tmp_path / ("x" * 255))["kind"] == "compare"


def test_an_envelope_tells_version_time_and_command():
    told = envelope(
        "quality",
        artefact=None,
        workload={"digest": "0" * 64},
        environment={},
        valid=True,
        problems=[],
        models=[],
    )
    assert told["schema"] == 1
    assert told["created"].endswith("Z")
    assert told["command"]
    assert told["slimgpt_version"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("there", "--save .*there exists: give a directory that does not"),
        ("file/below", "--save .*below can't be made: .*file is a file"),
        ("..", r"--save .*\.\. names no new directory"),
        ("x" * 300, "--save .*: File name too long"),
    ],
)
def test_where_a_result_can_not_go_is_told_before_measuring(tmp_path, name, said):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=said):
        require_free(tmp_path / name)


def test_parents_are_made(tmp_path):
    require_free(tmp_path / "a" / "b")
    save(tmp_path / "a" / "b", samples.compare())
    assert read(tmp_path / "a" / "b")["kind"] == "compare"


def test_another_schema_version_names_both(saved):
    with pytest.raises(UsageError, match=r"schema version 2 and this slimgpt reads version 1"):
        read(edited(saved, schema=2))


def test_an_unknown_kind_is_refused_with_those_that_are_known(saved):
    with pytest.raises(UsageError, match=r"kind 'energy'.*knows latency, load, compare"):
        read(edited(saved, kind="energy"))


@pytest.mark.parametrize("content", ["{}", '{"schema": 1}', '{"kind": "load"}'])
def test_a_file_of_something_else_is_no_result(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UsageError, match="is no saved result: give a directory that --save made"):
        read(tmp_path)
    with pytest.raises(UsageError, match="is no saved result"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize("content", ["", "[]", "{", "\xff"])
def test_a_file_that_is_no_json_is_damaged(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(IntegrityError):
        read(tmp_path)


def test_a_result_that_breaks_the_schema_is_damaged(saved):
    with pytest.raises(IntegrityError, match=r"result\.json is damaged: levels: "):
        read(edited(saved, levels=[]))


def test_nan_in_a_file_is_damage(saved):
    file = saved / "result.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": NaN'))
    with pytest.raises(IntegrityError, match="NaN is no JSON"):
        read(saved)


@pytest.mark.parametrize("name", ["requests.jsonl", "result.csv", "llm-d-0.yaml"])
def test_changed_files_are_found(saved, name):
    with (saved / name).open("a") as file:
        file.write(" ")
    with pytest.raises(IntegrityError, match=rf"{name} of .* is not the file that was saved"):
        read(saved)


def test_missing_files_are_found(saved):
    (saved / "requests.jsonl").unlink()
    with pytest.raises(IntegrityError, match=r"'requests\.jsonl' of .* is missing"):
        read(saved)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", ".."])
def test_digests_of_files_elsewhere_are_not_followed(saved, name):
    (saved.parent / "secret").write_text("")
    with pytest.raises(IntegrityError, match="is missing"):
        read(edited(saved, files={name: "0" * 64}))


def test_exit_codes_tell_a_wrong_file_from_a_damaged_one(saved, tmp_path, capsys):
    to = ["--to", str(tmp_path / "page.html")]
    assert run(["report", str(edited(saved, schema=2)), *to]) == 2
    assert run(["report", str(edited(saved, schema=1, valid="yes")), *to]) == 5
    assert len(capsys.readouterr().err.splitlines()) == 2
