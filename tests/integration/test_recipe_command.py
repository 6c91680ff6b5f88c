"""``slimgpt recipe init`` and ``check``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slimgpt.release.recipe.load import load_recipe
from slimgpt.release.recipe.template import recipe_template
from tests.command_line import USAGE, Desk


@pytest.fixture
def here(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The desk as the working directory."""
    monkeypatch.chdir(desk.root)
    return desk


def test_init_writes_a_recipe_that_check_takes(here: Desk) -> None:
    ended = here.run(["recipe", "init"])
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == (
        "release.yaml: edit it, then run slimgpt compress MODEL OUT --recipe release.yaml\n"
    )
    assert (here.root / "release.yaml").read_text() == recipe_template()
    assert here.run(["recipe", "check", "release.yaml"]).code == 0


@pytest.mark.parametrize("arguments", [["-"], ["--stdout"]])
def test_init_prints_the_same_and_writes_nothing(here: Desk, arguments: list[str]) -> None:
    before = here.contents()
    ended = here.run(["recipe", "init", *arguments])
    assert (ended.code, ended.stdout, ended.stderr) == (0, recipe_template(), "")
    assert here.contents() == before


def test_init_tells_programs(here: Desk) -> None:
    assert json.loads(here.run(["recipe", "init", "a.yaml", "--json"]).stdout) == {"file": "a.yaml"}
    printed = json.loads(here.run(["recipe", "init", "-", "--json"]).stdout)
    assert printed == {"file": None, "text": recipe_template()}


def test_init_overwrites_nothing(here: Desk) -> None:
    (here.root / "release.yaml").write_text("mine")
    (here.root / "link.yaml").symlink_to("nowhere")
    for name in ("release.yaml", "model", "link.yaml"):
        here.refuses(["recipe", "init", name], USAGE, f"{name} exists", "give a FILE that does not")
    here.refuses(["recipe", "init", "no/r.yaml"], USAGE, "no/r.yaml", "there is no folder no")


def test_check_prints_the_normal_form(here: Desk) -> None:
    (here.root / "t.txt").write_text("text")
    (here.root / "r.yaml").write_text("prune: {ratio: 0.2, calibration: t.txt}\n")
    command = ["recipe", "check", "r.yaml", "--set", "prune.align=8", "--ratio", "0.3"]
    document = json.loads(here.run([*command, "--seed", "5", "--json", "-q"]).stdout)
    assert (document["seed"], document["prune"]["ratio"], document["prune"]["align"]) == (5, 0.3, 8)
    assert document["prune"]["calibration"] == ["t.txt"]
    ended = here.run(command)
    assert ended.stderr == "r.yaml is in order; with all defaults:\n"
    (here.root / "again.yaml").write_text(ended.stdout)
    assert load_recipe(Path("again.yaml")).to_document() == document | {"seed": 0}


def test_check_says_all_that_is_wrong_a_line_each(here: Desk) -> None:
    (here.root / "r.yaml").write_text("prune:\n  ratio: 2\n  metod: exact\n")
    before = here.contents()
    ended = here.run(["recipe", "check", "r.yaml", "--set", "seed=x"])
    assert (ended.code, ended.stdout) == (USAGE, "")
    assert ended.stderr.splitlines() == [
        "slimgpt: --set seed=x: give a whole number, at least 0 and at most 4294967295",
        "slimgpt: r.yaml:2: prune.ratio 2: give a number, at least 0 and below 1, like 0.25",
        "slimgpt: r.yaml:3: prune.metod is no setting: did you mean prune.method?",
    ]
    assert here.contents() == before


def test_one_mistake_is_one_line(here: Desk) -> None:
    here.refuses(["recipe", "check", "no.yaml"], USAGE, "no.yaml is no file: give a recipe")
    here.refuses(["recipe", "check"], USAGE, "FILE")
    here.refuses(["recipe", "write"], USAGE, "write")


def test_a_name_in_a_recipe_does_not_steer_the_terminal(here: Desk) -> None:
    (here.root / "r.yaml").write_text('prune: {ratio: 0.2, "\\e[31m": 1}')
    here.refuses(["recipe", "check", "r.yaml"], USAGE, r"r.yaml:1: prune.\x1b[31m is no setting")


def test_recipes_need_no_torch(here: Desk) -> None:
    script = (
        "import sys; from slimgpt.cli import run; "
        "code = run(['recipe', 'init', 'r.yaml']) or run(['recipe', 'check', 'r.yaml']); "
        "sys.exit(code or 'torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
