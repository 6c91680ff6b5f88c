"""``slimgpt bench compare``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from slimgpt.commands.console import Console, common, device_options, seed_option
from slimgpt.commands.measuring import (
    compiled_and_threads,
    engine_and_cells,
    latency_options,
    save_option,
    trials_and_warmup,
)

_QUANTITIES = ("ttft_s", "tpot_s", "e2e_s", "prefill_s")


@click.command()
@click.argument("dense")
@click.argument("out")
@engine_and_cells
@click.option(
    "--rounds",
    type=int,
    default=4,
    show_default=True,
    help="Rounds of DENSE OUT OUT DENSE, each run a fresh process; an interval needs three.",
)
@trials_and_warmup
@click.option("--third", help="Another model of the same tokenizer, run in the same rounds.")
@click.option(
    "--depth",
    "by_depth",
    is_flag=True,
    help="Make the third model from DENSE: without as many whole layers as come nearest to OUT's "
    "size.",
)
@click.option(
    "--require-speedup",
    type=float,
    metavar="X",
    help="Exit code 1 unless the lower end of the ratio's interval is at least X.",
)
@click.option(
    "--quantity",
    type=click.Choice(_QUANTITIES),
    help="Whose ratio --require-speedup is held against, of the first setting.  [default: e2e_s]",
)
@compiled_and_threads
@click.option(
    "--roofline/--no-roofline",
    default=True,
    help="Set the ratios beside what widths and this machine allow at best.  [default: roofline]",
)
@save_option
@seed_option
@device_options
@common
def compare(
    console: Console,
    dense: str,
    out: str,
    third: str | None,
    require_speedup: float | None,
    quantity: str | None,
    save: Path | None,
    **options: Any,
) -> None:
    """Is OUT faster than DENSE, by how much, and how sure is that.

    Both run in turn, in fresh processes, on the same prompts: the ratio DENSE's time / OUT's time
    with its 95 % interval, and a verdict: faster, slower, no difference or unresolved. Exit code 3:
    the models can't be compared, or the first setting is unresolved; the last lines say why.
    """
    from slimgpt.checkpoint.locate import locate

    job: Any = importlib.import_module("slimgpt_bench.compare.job")
    decision: Any = importlib.import_module("slimgpt_bench.compare.decision")
    results: Any = importlib.import_module("slimgpt_bench.results")
    asked = _asked(job, third, options)
    decision.require_required(require_speedup, quantity, asked.rounds, asked.latency.cells[0])
    if save:
        results.require_free(save)
    found = job.compare(locate(dense), locate(out), asked, console)
    shown: Any = importlib.import_module("slimgpt_bench.compare.page")
    console.result(found.document, shown.page(found.document))
    if save:
        results.save(save, found.document, found.records())
    decision.decide(found.document, speedup=require_speedup, quantity=quantity or decision.E2E)


def _asked(job: Any, third: str | None, options: dict[str, Any]) -> Any:
    from slimgpt.checkpoint.locate import locate

    latency: Any = importlib.import_module("slimgpt_bench.latency.job")
    latency.require_numbers(1, options["trials"], options["warmup"])
    return job.CompareOptions(
        latency_options(options),
        options["rounds"],
        None if third is None else locate(third),
        options["by_depth"],
        options["roofline"],
    )
