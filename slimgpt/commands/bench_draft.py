"""``slimgpt bench draft``: vLLM's speculative decoding with a pruned draft, measured."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from slimgpt.commands.console import Console, common, device_options, seed_option
from slimgpt.commands.measuring import whole_numbers


@click.command()
@click.argument("dense")
@click.argument("draft")
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="What prompts are taken from: a .txt, .jsonl or .json file; without it DENSE makes them "
    "up itself.",
)
@click.option("--prompts", type=int, default=16, show_default=True, help="Texts to go on with.")
@click.option("--prompt-tokens", type=int, default=64, show_default=True, help="Tokens of each.")
@click.option(
    "--max-new-tokens", type=int, default=64, show_default=True, help="Tokens of each answer."
)
@click.option(
    "--draft-tokens",
    callback=whole_numbers,
    multiple=True,
    default=("4",),
    show_default="4",
    help="Tokens that DRAFT drafts at a time; several, like 2,4,6, are measured side by side.",
)
@click.option(
    "--repeat", type=int, default=5, show_default=True, help="Rounds; an interval needs three."
)
@click.option("--batch", type=int, default=1, show_default=True, help="Texts that run together.")
@click.option(
    "--eager/--compiled",
    default=None,
    help="Without torch.compile and CUDA graphs, or with.  [default: compiled on a GPU]",
)
@seed_option
@device_options
@common
def draft(
    console: Console,
    dense: str,
    draft: str,
    device: str,
    eager: bool | None,
    **options: Any,
) -> None:
    """Measure vLLM's speculative decoding: DRAFT, pruned from DENSE, drafts for it.

    Tells how many drafted tokens DENSE accepts, the decode speed with and without DRAFT, and
    whether the answers are equal. Exit code 1: they are not; 3: the speeds can't be told apart.
    """
    from slimgpt.checkpoint.locate import locate

    drafting: Any = importlib.import_module("slimgpt_bench.drafting")
    job: Any = importlib.import_module("slimgpt_bench.draft_job")
    asked = drafting.DraftOptions(eager=False, **options)
    result = job.bench_draft(
        (dense, locate(dense)),
        (draft, locate(draft)),
        asked,
        device,
        os.environ,
        console,
        eager=eager,
    )
    document = result.to_json()
    shown = Group(_table(result), Text(_positions(document)), Text(_protocol(document)))
    console.result(document, shown)
    problem = result.problem()
    if problem:
        raise problem


def _table(result: Any) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("draft tokens")
    for name in ("accepted", "tokens/step", "decode tokens/s", "ratio", "95 %"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    table.add_column("outputs")
    words: Any = importlib.import_module("slimgpt_bench.draft_result").tie_words
    document = result.to_json()
    dense = document["dense_decode_tokens_per_s"]["median"]
    table.add_row("none", "", "1.00", f"{dense:.1f}", "1", "", "", "")
    for row, outcome in zip(document["drafts"], result.outcomes, strict=True):
        interval = row["interval"]
        table.add_row(
            str(row["draft_tokens"]),
            f"{row['acceptance']['rate']:.1%}",
            f"{row['acceptance']['tokens_per_step']:.2f}",
            f"{row['decode_tokens_per_s']['median']:.1f}",
            f"{row['ratio']:.3f}",
            interval if isinstance(interval, str) else "{:.3f} to {:.3f}".format(*interval),
            row["verdict"],
            words(outcome.equality),
        )
    return table


def _positions(document: dict[str, Any]) -> str:
    """Where in a draft tokens are accepted, a line for each number of draft tokens."""
    return "\n".join(
        f"accepted of {row['draft_tokens']} drafted, by place: "
        + ", ".join(f"{x:.0%}" for x in row["acceptance"]["per_position"])
        for row in document["drafts"]
    )


def _protocol(document: dict[str, Any]) -> str:
    how, where = document["protocol"], document["environment"]
    return (
        f"{how['prompts']} prompts of {how['prompt_tokens']} tokens ({how['prompt_source']}), "
        f"{how['max_new_tokens']} new ones each, greedily, {how['batch']} at a time, "
        f"{how['rounds']} interleaved rounds; {how['dtype']}, "
        f"{'compiled' if how['compiled'] else 'eager'}, vLLM {where['vllm']} on "
        f"{where['device'] or 'an unnamed device'}, {where['threads']} threads"
    )
