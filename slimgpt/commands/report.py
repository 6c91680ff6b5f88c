"""``slimgpt report``: saved results and checkpoints as one page."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import click

from slimgpt.commands.console import Console, accepted_everywhere, common

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=_PATH)
@click.option(
    "--to",
    "file",
    type=_PATH,
    default=Path("report.html"),
    show_default=True,
    help="The page to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace a page that is there.")
@accepted_everywhere("seed", "device", "dtype")
@common
def report(console: Console, runs: tuple[Path, ...], file: Path, overwrite: bool) -> None:
    """Show every RUN on one HTML page that needs no network and prints well.

    A RUN is what --save of slimgpt bench or slimgpt capacity made, or a pruned checkpoint. What
    can't be compared is not drawn together; runs that are not valid are marked.
    """
    job: Any = importlib.import_module("slimgpt_bench.report.job")
    pages = job.make_report(runs, file, overwrite=overwrite)
    kinds = Counter(str(x["kind"]) for x in pages.results)
    invalid = sum(not x["valid"] for x in pages.results)
    models = [x.name for x in pages.models]
    document = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "results": dict(kinds),
        "models": models,
        "invalid": invalid,
    }
    told = ", ".join(f"{n} of {kind}" for kind, n in kinds.items()) or "no measurements"
    marked = f", {invalid} not valid and marked so" if invalid else ""
    console.result(document, f"{file}: {told}{marked}; models: {', '.join(models) or 'none'}")
