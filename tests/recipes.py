"""Recipes in a folder of their own, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimgpt.errors import UsageError
from slimgpt.release.recipe.load import load_recipe
from slimgpt.release.recipe.problems import RecipeError
from slimgpt.release.recipe.recipe import Recipe

PRUNE = "prune: {ratio: 0.2}\n"
RATIO = "give a number, at least 0 and below 1, like 0.25"


def load(folder: Path, text: str | bytes, *overrides: str, **options: float) -> Recipe:
    """The recipe of this text, as r.yaml beside a file t.txt."""
    path = folder / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    (folder / "t.txt").write_text("text")
    return load_recipe(path, overrides, **options)  # type: ignore[arg-type]


def problems(folder: Path, text: str | bytes, *overrides: str, **options: float) -> list[str]:
    """What is wrong, without the folder in front."""
    with pytest.raises(UsageError) as raised:
        load(folder, text, *overrides, **options)
    assert raised.value.exit_code == 2
    error = raised.value
    lines = error.problems if isinstance(error, RecipeError) else (str(error),)
    assert str(error) == "; ".join(lines)
    return [line.removeprefix(f"{folder}/") for line in lines]
