"""``slimgpt demo``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from slimgpt.commands.console import Console, accepted_everywhere, common
from slimgpt.errors import UsageError
from slimgpt.resources import human_bytes


@click.command()
@click.option("--ratio", type=float, default=0.25, show_default=True, help="As in slimgpt prune.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    help="Keep the pruned checkpoint in this directory, which must not exist.",
)
@accepted_everywhere("seed", "device", "dtype")
@common
def demo(console: Console, ratio: float, keep: Path | None) -> None:
    """Prune the embedded model, load the result, and set both side by side. Needs no network.

    The text was sampled from the model itself, so that perplexity measures what pruning lost:
    it is exp(entropy + KL).
    """
    from slimgpt.demo.run import run_demo

    if keep and (keep.exists() or keep.is_symlink()):
        raise UsageError(f"--keep {keep} exists: give a directory that does not")
    with tempfile.TemporaryDirectory(prefix="slimgpt-demo-") as folder:
        done = run_demo(keep or Path(folder) / "pruned", ratio, console)
    plan, rows = done.pruned.plan, done.rows()
    document = done.pruned.to_json() | {
        "out": str(keep) if keep else None,
        "rows": rows,
        "seconds_pruning": done.pruned.seconds,
        "seconds": done.seconds,
        "text": done.quality.text.protocol,
    }
    table = Table(
        "",
        "dense",
        "pruned",
        "ratio",
        title=f"reference-1m, {plan.achieved:.2%} of the decoder removed ({plan.ratio:.0%} asked)",
        caption=f"text: {done.quality.text.scored_tokens:,} tokens sampled from the dense model, "
        f"{done.quality.text.protocol}; float32 on CPU, "
        "speed on one thread; peak memory beyond that of the libraries\n"
        f"{done.pruned.seconds:.1f} s pruning, {done.seconds:.1f} s in all"
        + (f"; kept in {keep}" if keep else "; --keep DIR keeps the result"),
    )
    for row in rows:
        ratio_text = f"{row['pruned'] / row['dense']:.2f}" if row["dense"] else ""
        name = row["quantity"] + (f", {row['unit']}" if row["unit"] not in ("", "B") else "")
        table.add_row(name, _value(row, "dense"), _value(row, "pruned"), ratio_text)
    console.result(document, table)


def _value(row: dict[str, Any], which: str) -> str:
    value = row[which]
    if row["unit"] == "B" and value >= 2**20:
        return human_bytes(value)
    if row["quantity"] in ("perplexity", "KL to dense"):
        return f"{value:.3f}"
    return f"{value:,.0f}"
