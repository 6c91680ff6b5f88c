"""Recipes from YAML and the command line: what is taken, and from where."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimgpt.errors import UsageError
from slimgpt.release.recipe.load import load_recipe
from slimgpt.release.recipe.located_yaml import to_yaml
from slimgpt.release.recipe.problems import RecipeError
from slimgpt.release.recipe.recipe import Recipe
from tests.recipes import PRUNE, RATIO, load, problems

# -- what is taken ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yaml", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("1E-04", 1e-4),
        (".5", 0.5),
        ("1", 1.0),
        ("010", 10.0),  # octal in YAML 1.1
        ("0x1", 1.0),
        ("!!float 1", 1.0),
    ],
)
def test_numbers_are_what_they_look_like(tmp_path: Path, yaml: str, value: float) -> None:
    text = f"prune: {{ratio: 0.2}}\nrecover: {{data: t.txt, temperature: {yaml}}}"
    made = load(tmp_path, text).recover
    assert made
    assert made.temperature == value


@pytest.mark.parametrize("name", ["no", "on", "1:30", "2024-01-01", "1_000", "y", "'null'", "'1'"])
def test_names_are_text_whatever_yaml_1_1_took_them_for(tmp_path: Path, name: str) -> None:
    made = load(tmp_path, f"prune: {{ratio: 0.2}}\nevaluate: {{tasks: [{name}]}}").evaluate
    assert made
    assert made.tasks[0].written == name.strip("'")


def test_anchors_are_followed_and_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    text = "\ufeffprune: {ratio: &r 0.2}\nevaluate: {texts: [{file: t.txt}]}\ngates: {kl: *r}\r\n"
    made = load(tmp_path, text)
    assert made.gates
    assert made.gates.kl == 0.2


def test_file_names_are_relative_to_the_recipe_and_those_of_set_to_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, here = tmp_path / "recipes", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    (here / "t.txt").write_text("other")
    monkeypatch.chdir(here)
    text = "prune: {ratio: 0.2, calibration: t.txt}"
    made = load(folder, text, "evaluate.texts=[{file: t.txt}]")
    assert made.prune.calibration[0].path == folder / "t.txt"
    assert made.evaluate
    assert made.evaluate.texts[0].file.path.resolve() == here / "t.txt"
    assert made == load(tmp_path, text, "evaluate.texts=[{file: t.txt}]")


def test_a_name_stays_a_name_unless_there_is_such_a_file(tmp_path: Path) -> None:
    text = "prune: {ratio: 0.2, calibration: [c4, alpaca]}\nevaluate: {tasks: [boolq, t.jsonl]}"
    (tmp_path / "c4").write_text("text")
    (tmp_path / "t.jsonl").write_text("{}")
    made = load(tmp_path, text)
    assert made.evaluate
    sources = [f.source for f in (*made.prune.calibration, *made.evaluate.tasks)]
    assert sources == [str(tmp_path / "c4"), "alpaca", "boolq", str(tmp_path / "t.jsonl")]


def test_overrides_make_sections_replace_values_and_the_last_wins(tmp_path: Path) -> None:
    made = load(
        tmp_path,
        "prune: {ratio: 0.2, damping: 0.1, calibration: [a.txt, b.txt]}\n"
        "recover: {data: nowhere}\nseed: 1",
        "prune.calibration=self",
        "prune.method=exact",
        "prune.method = slimgpt",
        "prune.damping=",
        "gates.kv_bytes=.8",
        "recover=null",
        ratio=0.3,
        seed=7,
    )
    assert (made.seed, made.prune.ratio, made.prune.method) == (7, 0.3, "slimgpt")
    assert (made.prune.damping, made.recover) == (None, None)
    assert [f.written for f in made.prune.calibration] == ["self"]
    assert made.gates
    assert made.gates.kv_bytes == 0.8


def test_a_ratio_alone_is_a_recipe():
    assert load_recipe(None, ratio=0.25) == Recipe.model_validate({"prune": {"ratio": 0.25}})


# -- overrides and options that are wrong ----------------------------------------------------------

WRONG_OVERRIDES: dict[str, tuple[str, str]] = {
    "value": ("prune.align=0", "give a whole number, at least 1"),
    "unknown": ("prune.alin=2", "prune.alin is no setting: did you mean prune.align?"),
    "inside": ("prune={ratio: 2}", f"prune.ratio 2: {RATIO}"),
    "no value": ("prune.align", "give KEY=VALUE, like prune.method=slimgpt; sections are joined"),
    "no key": ("=2", "give KEY=VALUE, like prune.method=slimgpt; sections are joined by dots"),
    "item of a list": (
        "evaluate.texts[0].window=2",
        "give KEY=VALUE, like prune.method=slimgpt; lists are given whole",
    ),
    "not a section": ("seed.x=1", "seed is no section"),
    "no YAML": ("prune.method=[", "the value is no valid YAML: while parsing a flow node"),
    "tag": ("prune.method=!!set x", "'x' can't be read as !!set: leave the tag out"),
}


@pytest.mark.parametrize(("override", "says"), WRONG_OVERRIDES.values(), ids=WRONG_OVERRIDES)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, says: str) -> None:
    (line,) = problems(tmp_path, "prune: {ratio: 0.2}\nseed: 1", override)
    assert line.startswith(f"--set {override}: {says}")


def test_options_are_named_and_may_not_contradict(tmp_path: Path) -> None:
    assert problems(tmp_path, PRUNE, ratio=1.5, seed=2**32) == [
        "--seed 4294967296: give a whole number, at least 0 and at most 4294967295",
        f"--ratio 1.5: {RATIO}",
    ]
    assert problems(tmp_path, PRUNE, "prune.ratio=0.5", ratio=0.3) == [
        "--ratio 0.3: --set prune.ratio=0.5 says another thing: give one of them"
    ]


def test_no_recipe_and_no_ratio():
    with pytest.raises(RecipeError) as raised:
        load_recipe(None)
    assert raised.value.problems == (f"recipe: prune.ratio is missing: {RATIO}; or give --ratio",)


# -- files that can't be recipes -------------------------------------------------------------------


def test_no_file_no_text_and_too_long_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path, tmp_path / "no.yaml", tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match="is no file: give a recipe; slimgpt recipe init FILE"):
            load_recipe(path)
    assert problems(tmp_path, b"\xff\xfe\0") == [
        "r.yaml is no UTF-8 text: invalid start byte at byte 0"
    ]
    assert problems(tmp_path, "#" * (2**20 + 1)) == [
        "r.yaml has 1,048,577 bytes: a recipe has 1,048,576 at most"
    ]
    (tmp_path / "r.yaml").unlink()

    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")  # root may read everything

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert problems(tmp_path, "x") == ["r.yaml can't be read: Permission denied"]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200
)
@given(st.one_of(st.binary(), st.text(alphabet="ab:{}[]&*!-#'\"\\,?|>%@ \n\t1.~<")))
def test_no_text_ends_in_anything_but_a_usage_error(tmp_path: Path, text: str | bytes) -> None:
    assert problems(tmp_path, text)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100
)
@given(
    st.sampled_from(["prune.ratio", "prune.calibration", "evaluate.texts", "gates", "push"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["file", "ratio", "kl", "window", "x"]), inner)
        ),
        max_leaves=5,
    ),
)
def test_no_value_ends_in_anything_but_a_recipe_error(tmp_path: Path, key: str, value: Any) -> None:
    with suppress(RecipeError):
        load(tmp_path, PRUNE, f"{key}={to_yaml(value, one_line=True)}")
