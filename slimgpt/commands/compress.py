"""``slimgpt compress``."""

from __future__ import annotations

from pathlib import Path

import click

from slimgpt.commands.console import LARGEST_SEED, Console, common, device_options, resume_option


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    help="YAML: what to do; slimgpt recipe init writes one.",
)
@click.option("--ratio", type=float, help="As prune.ratio of the recipe, before which it counts.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Overrides an entry of the recipe, like --set prune.method=slimgpt (repeatable).",
)
@click.option("--dry-run", is_flag=True, help="Print plan, cost and checks; write nothing.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Folder for report.json, junit.xml and summary.txt.  [default: OUT.report]",
)
@resume_option
@click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    help="As seed of the recipe, before which it counts.  [default: 0]",
)
@device_options
@common
def compress(
    console: Console,
    model: str,
    out: Path,
    recipe: Path | None,
    ratio: float | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    report: Path | None,
    resume: bool,
    seed: int | None,
    device: str,
    dtype: str,
) -> None:
    """Make a release OUT of the dense MODEL: prune, recover, evaluate, gate, card, manifest.

    OUT appears only if every gate of the recipe is met; else the exit code is 1. A killed job
    leaves OUT.partial, and the same command goes on from there. Between two runs the gates may
    change, and what is evaluated: neither makes the weights anew. Exports that are checkpoints of
    their own are made of OUT; one that fails ends the job with its own code, and the same command
    makes what is missing.
    """
    from slimgpt.release.recipe.load import load_recipe

    release = load_recipe(recipe, overrides, ratio=ratio, seed=seed)
    from slimgpt.checkpoint.locate import locate
    from slimgpt.compress.report import report_directory
    from slimgpt.compress.settings import Settings
    from slimgpt.destination import require_absent

    require_absent(out)
    directory = locate(model)
    settings = Settings(device, dtype, not resume, report or report_directory(out), model)
    if dry_run:
        from slimgpt.compress.dry_run import look_ahead

        outlook = look_ahead(directory, out, release, settings)
        console.result(outlook.to_json(), outlook.page())
        outlook.require_possible()
        return
    from slimgpt.compress.pipeline import compress as run
    from slimgpt.compress.summary import summary
    from slimgpt.release.gates import require_all

    # A hub id is the name of its model; a path says nothing beyond its last part.
    name = None if Path(model).expanduser().is_dir() else model
    result = run(directory, out, release, settings, source_name=name, progress=console)
    console.result(result.to_json() | {"report": str(settings.report)}, summary(result))
    require_all(result.gates)
