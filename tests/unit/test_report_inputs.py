"""What a page can be made from, what is refused in one line, and the command."""

from __future__ import annotations

import json
import re
import sys

import pytest

from slimgpt.cli import run
from slimgpt.errors import EnvironmentProblem, IntegrityError, UsageError
from slimgpt_bench.report.job import make_report
from slimgpt_bench.report.runs import gather
from slimgpt_bench.results import save
from tests import result_samples as samples


def test_a_result_that_is_given_twice_counts_once(tmp_path):
    save(tmp_path / "a", samples.compare())
    save(tmp_path / "b", samples.compare())
    assert len(gather([tmp_path / "a", tmp_path / "b"]).results) == 1


def test_models_of_one_name_are_told_apart(tmp_path):
    one, other = samples.manifest(), samples.manifest(0.5)
    for i, manifest in enumerate((one, other)):
        (tmp_path / str(i) / "same").mkdir(parents=True)
        (tmp_path / str(i) / "same" / "slimgpt.json").write_text(json.dumps(manifest))
    names = [x.name for x in gather([tmp_path / "0" / "same", tmp_path / "1" / "same"]).models]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"same \([0-9a-f]{8}\)", name) for name in names)


def test_a_manifest_alone_may_be_named(tmp_path):
    (tmp_path / "slimgpt.json").write_text(json.dumps(samples.manifest()))
    [model] = gather([tmp_path / "slimgpt.json"]).models
    assert model.name == tmp_path.name


@pytest.mark.parametrize(
    "change",
    [
        {"shape": None},
        {"shape": {"layers": [{"query_heads": "many"}]}},
        {"parameters": {"before": 1, "after": -1}},
        {"quality": {"layers": [7]}},
        {"quality": {"texts": {"a": 1}}},
        {"gates": ["x"]},
    ],
    ids=str,
)
def test_a_manifest_that_is_none_is_damaged(tmp_path, change):
    (tmp_path / "slimgpt.json").write_text(json.dumps(samples.manifest() | change))
    with pytest.raises(IntegrityError, match=r"slimgpt\.json is no manifest of slimgpt"):
        gather([tmp_path])


def test_a_model_that_can_not_be_is_damage_too(tmp_path):
    artefact = samples.artefact(shape={"layers": "all"})
    save(tmp_path / "run", samples.latency(artefact=artefact))
    with pytest.raises(IntegrityError, match="a result tells of a model that can't be"):
        gather([tmp_path / "run"])


def test_a_folder_of_neither_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds neither result\.json nor slimgpt\.json: give"):
        gather([tmp_path])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("there.html", "there.html exists: give --overwrite, or another file"),
        ("folder", "folder is a directory: give a file"),
        ("there.html/page", "can't be made: .*there.html is a file"),
    ],
)
def test_where_a_page_can_not_go(tmp_path, name, said):
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=said):
        make_report([tmp_path / "run"], tmp_path / name)
    assert (tmp_path / "there.html").read_text() == "mine"


def test_jinja2_may_be_missing(tmp_path, monkeypatch):
    from slimgpt_bench.report import page

    save(tmp_path / "run", samples.compare())
    page._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(EnvironmentProblem, match=r"slimgpt report needs .*slimgpt\[bench\]"):
        make_report([tmp_path / "run"], tmp_path / "page.html")
    page._environment.cache_clear()


def test_what_the_schema_leaves_free_can_not_break_the_page_without_a_line(tmp_path):
    save(tmp_path / "run", samples.compare(predicted={"cells": "all"}))
    with pytest.raises(IntegrityError, match="can't be shown, so one of them is damaged"):
        make_report([tmp_path / "run"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command_writes_the_page_and_says_what_is_on_it(tmp_path, capsys):
    save(tmp_path / "run", samples.compare(valid=False, problems=["busy"]))
    to = tmp_path / "new" / "page.html"
    assert run(["report", str(tmp_path / "run"), "--to", str(to), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "file": str(to),
        "bytes": to.stat().st_size,
        "results": {"compare": 1},
        "models": ["llama-7b", "llama-7b-p25"],
        "invalid": 1,
    }
    assert run(["report", str(tmp_path / "run"), "--to", str(to)]) == 2
    assert run(["report", str(tmp_path / "run"), "--to", str(to), "--overwrite"]) == 0
    assert "1 not valid and marked so" in " ".join(capsys.readouterr().out.split())
