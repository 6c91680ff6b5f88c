"""``slimgpt recipe``: a recipe to start from, and what is wrong with one. No torch."""

from __future__ import annotations

from pathlib import Path

import click

from slimgpt.commands.console import LARGEST_SEED, Console, accepted_everywhere, common
from slimgpt.errors import UsageError

_STDOUT = Path("-")


@click.group()
def recipe() -> None:
    """Write a commented recipe, or check one; compress takes it as --recipe."""


@recipe.command()
@click.argument(
    "file", type=click.Path(path_type=Path, allow_dash=True), default=Path("release.yaml")
)
@click.option("--stdout", "to_stdout", is_flag=True, help="Print it instead of writing FILE.")
@accepted_everywhere("seed", "device", "dtype")
@common
def init(console: Console, file: Path, to_stdout: bool) -> None:
    """Write a recipe in which every setting stands and is explained.

    FILE is release.yaml unless given, must not exist, and is stdout if it is -.
    """
    from slimgpt.release.recipe.template import recipe_template

    text = recipe_template()
    if to_stdout or file == _STDOUT:
        _print(console, {"file": None, "text": text}, text)
        return
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise UsageError(f"{file} exists: give a FILE that does not, or - for stdout") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{file} can't be written: there is no folder {file.parent}") from None
    said = f"{file}: edit it, then run slimgpt compress MODEL OUT --recipe {file}\n"
    _print(console, {"file": str(file)}, said)


@recipe.command(short_help="Check a recipe, and print it with all defaults.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, like prune.method=slimgpt (repeatable).",
)
@click.option("--ratio", type=float, help="Change prune.ratio.")
@click.option("--seed", type=click.IntRange(0, LARGEST_SEED), help="Change seed.")
@accepted_everywhere("device", "dtype")
@common
def check(
    console: Console,
    file: Path,
    overrides: tuple[str, ...],
    ratio: float | None,
    seed: int | None,
) -> None:
    """Print the recipe FILE with all defaults put in, or everything that is wrong with it."""
    from slimgpt.release.recipe.load import load_recipe
    from slimgpt.release.recipe.located_yaml import to_yaml

    document = load_recipe(file, overrides, ratio=ratio, seed=seed).to_document()
    console.message(f"{file} is in order; with all defaults:")
    _print(console, document, to_yaml(document))


def _print(console: Console, document: dict[str, object], text: str) -> None:
    """Text of a file goes out as it is: wrapped or padded, it would be another."""
    if console.as_json:
        console.result(document, "")
    else:
        click.echo(text, nl=False)
