"""The schema of a recipe agrees with the options of the verbs; its normal form and its template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from slimgpt.commands.console import LARGEST_SEED as LARGEST_SEED_OPTION
from slimgpt.evaluate.windows import PAPER_WINDOW, Protocol
from slimgpt.planning import Constraints
from slimgpt.prune.options import METHOD_NAMES, PruneOptions
from slimgpt.recover.options import PROMPTS, RecoverOptions
from slimgpt.recover.options import SCHEDULES as RATE_SCHEDULES
from slimgpt.release.recipe.file_name import FileName
from slimgpt.release.recipe.load import load_recipe
from slimgpt.release.recipe.located_yaml import to_yaml
from slimgpt.release.recipe.recipe import LARGEST_SEED, Recipe, prune_options_of
from slimgpt.release.recipe.schema_words import recipe_schema, resolved
from slimgpt.release.recipe.sections import Export, Prune, Recover, ScoredText
from slimgpt.release.recipe.template import recipe_template
from slimgpt_export.quantize_options import QuantizeOptions
from slimgpt_export.quantize_schemes import GROUP_SIZES, RUNS_ON, SCHEMES, Target
from slimgpt_export.stock import StockOptions

FULL: dict[str, Any] = {
    "seed": 3,
    "prune": {"ratio": 0.2, "calibration": ["a.txt", "wikitext2"], "damping": 0.02},
    "recover": {"data": "data/b.jsonl", "batch_size": 8},
    "evaluate": {"texts": [{"file": "/data/t.txt"}, {"file": "u.txt"}], "tasks": ["boolq"]},
    "gates": {"kl": 0.1, "accuracy": {"ratio": 0.9}},
    "exports": [
        {"format": "cyclonedx"},
        {"format": "stock", "out": "/releases/stock", "pad": True},
        {"format": "quantized", "out": "q/fp8", "scheme": "fp8", "text": "t.txt", "max_kl": 0.1},
    ],
    "sign": {"key": "~/key.pem"},
    "push": {"repository": "org/name"},
}


def recipe(document: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(document)


def choices(section: type[Any], field: str) -> tuple[str, ...]:
    return get_args(section.model_fields[field].annotation)


# -- the same settings as on the command line ------------------------------------------------------


def test_recovery_has_the_options_and_the_defaults_of_the_verb():
    beyond = {"seed", "device", "dtype", "fresh"}
    options = {f.name: f.default for f in fields(RecoverOptions) if f.name not in beyond}
    section = Recover.model_validate({"data": "x"}).model_dump(exclude={"data"})
    assert section == options


def test_pruning_has_the_options_and_the_defaults_of_the_verb():
    section = recipe({"prune": {"ratio": 0.25}})
    assert prune_options_of(section, "auto", "auto", fresh=False) == PruneOptions(0.25)


def test_choices_are_those_of_the_verbs():
    assert set(choices(Prune, "method")) == set(METHOD_NAMES)
    assert set(choices(Recover, "prompt")) == set(PROMPTS)
    assert set(choices(Recover, "schedule")) == set(RATE_SCHEDULES)
    assert set(choices(ScoredText, "protocol")) == set(get_args(Protocol))
    assert ScoredText.model_validate({"file": "x"}).window == PAPER_WINDOW
    assert LARGEST_SEED == LARGEST_SEED_OPTION
    assert set(get_args(Export.model_fields["runs_on"].annotation)) == set(RUNS_ON)
    assert get_args(Export.model_fields["group_size"].annotation) == GROUP_SIZES
    scheme, _ = get_args(Export.model_fields["scheme"].annotation)
    assert set(get_args(scheme)) == set(SCHEMES)


def test_exports_have_the_defaults_of_the_verb():
    made = Export.model_validate({"format": "quantized", "out": "x", "scheme": "w4a16"})
    target = Target(SCHEMES["w4a16"])
    assert (made.group_size, made.runs_on) == (target.group_size, target.runs_on)
    assert made.tensor_parallel == target.tensor_parallel
    assert QuantizeOptions(target).max_kl == made.max_kl
    assert made.pad == StockOptions().pad


def test_all_of_the_prune_section_reaches_the_driver():
    section = {
        "ratio": 0.3,
        "method": "slimgpt",
        "schedule": "linear",
        "first_layer_ratio": 0.1,
        "kv_heads": "keep",
        "align": 8,
        "tensor_parallel": 2,
        "damping": 0.1,
    }
    made = prune_options_of(recipe({"prune": section}), "cpu", "float32", True, "disk")
    limits = Constraints("keep", 8, 2)
    assert made == PruneOptions(
        0.3, "slimgpt", "linear", 0.1, limits, 0.1, "cpu", "float32", "disk", True
    )


# -- the normal form -------------------------------------------------------------------------------


def test_the_normal_form_is_a_recipe_of_the_same_normal_form(tmp_path: Path) -> None:
    document = recipe(FULL).to_document()
    json.dumps(document, allow_nan=False)
    (tmp_path / "again.yaml").write_text(to_yaml(document))
    again = load_recipe(tmp_path / "again.yaml", files=False)
    assert again.to_document() == document


def test_the_normal_form_has_every_setting_and_no_absolute_path():
    document = recipe(FULL).to_document()
    for name, schema in recipe_schema()["properties"].items():
        section = resolved(schema).get("properties")
        assert section is None or document[name].keys() == section.keys()
    assert document["evaluate"]["texts"][0]["file"] == "t.txt"
    assert document["sign"]["key"] == "key.pem"
    bill, stock, quantized = document["exports"]
    assert bill == {"format": "cyclonedx"}
    assert stock == {"format": "stock", "out": "stock", "pad": True}
    assert quantized["out"] == "q/fp8"
    assert not {"pad", "format"} <= quantized.keys()
    assert document["recover"]["data"] == ["data/b.jsonl"]


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ({"calibration": "c4"}, {"calibration": ["c4"]}),
        ({"ratio": 0}, {"ratio": 0.0, "first_layer_ratio": 0.0}),
        ({}, {"first_layer_ratio": 1 / 16}),
        ({}, {"schedule": "log"}),
        ({"uniform": True}, {"schedule": "uniform", "uniform": True}),
        ({"uniform": True, "schedule": "uniform"}, {"uniform": True}),
    ],
)
def test_recipes_that_mean_the_same_have_the_same_normal_form(
    written: dict[str, Any], means: dict[str, Any]
) -> None:
    one, other = ({"prune": {"ratio": 0.25} | part} for part in (written, means))
    assert recipe(one).to_document() == recipe(other).to_document()


def test_examples_at_once_are_at_most_a_batch():
    made = recipe({"prune": {"ratio": 0.25}, "recover": {"data": "x", "batch_size": 8}})
    assert made.to_document()["recover"]["micro_batch"] == 8


def test_a_section_left_out_is_left_out():
    assert recipe({"prune": {"ratio": 0.25}}).to_document().keys() == {
        "version",
        "seed",
        "prune",
        "exports",
    }


def test_programs_may_give_file_names_as_such():
    name = FileName("a.txt", Path("/data"))
    made = Prune(ratio=0.2, calibration=(name,)).calibration[0]
    assert (made.path, made.label) == (Path("/data/a.txt"), "a.txt")


def test_a_recipe_can_not_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        recipe(FULL).prune.ratio = 0.5


# -- the template ----------------------------------------------------------------------------------


def turned_on(text: str) -> str:
    """The template with every setting on that is off, and nothing else changed."""
    return "\n".join(_on(line) for line in text.splitlines())


def _on(line: str) -> str:
    while (found := re.sub(r"^( *)#(?=\S|  )", r"\1", line)) != line:
        line = found
    return line


def loaded(folder: Path, text: str) -> Recipe:
    (folder / "release.yaml").write_text(text)
    return load_recipe(folder / "release.yaml", files=False)


def settings(schema: dict[str, Any], at: str = "") -> Iterator[str]:
    for name, inside in resolved(schema).get("properties", {}).items():
        yield f"{at}{name}"
        if not at:
            yield from settings(inside, f"{name}.")


def test_the_template_loads_and_sets_nothing_but_defaults_and_the_ratio(tmp_path: Path) -> None:
    (tmp_path / "release.yaml").write_text(recipe_template())
    assert load_recipe(tmp_path / "release.yaml") == recipe({"prune": {"ratio": 0.25}})


def test_the_template_with_all_settings_on_loads(tmp_path: Path) -> None:
    made = loaded(tmp_path, turned_on(recipe_template()))
    assert None not in (made.recover, made.evaluate, made.gates, made.sign, made.push)
    assert made.exports
    assert made.gates is not None
    assert made.gates.accuracy is not None
    assert made.recover == Recover.model_validate({"data": "alpaca.json"})


def test_every_setting_and_its_description_stand_in_the_template():
    text = turned_on(recipe_template())
    comments = " ".join(re.findall(r"^ *# (.*)", text, re.M))
    nested, found = "", set()
    for name in re.findall(r"^((?:  )?\w+):", text, re.M):
        nested = nested if name.startswith(" ") else f"{name}."
        found.add(nested + name.strip() if name.startswith(" ") else name)
    assert found == set(settings(recipe_schema()))
    for section in recipe_schema()["$defs"].values():
        if section["title"] in ("ScoredText", "Export", "AccuracyGate", "SpeedGate"):
            continue  # one-line examples, described around them
        for inside in section["properties"].values():
            assert " ".join(inside["description"].split()) in comments


def test_no_line_of_the_template_is_too_long():
    assert max(map(len, recipe_template().splitlines())) <= 100
