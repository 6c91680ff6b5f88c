"""``slimgpt capacity``: how many accelerators for this traffic and this SLO."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from slimgpt.commands.console import Console, common, device_options, seed_option
from slimgpt.errors import UsageError

_FILE = click.Path(path_type=Path, dir_okay=False)
_PATH = click.Path(path_type=Path)


def _asked(command: Callable[..., None]) -> Callable[..., None]:
    """What is planned for, and what it rests on."""
    options = (
        click.option("--traffic", type=_FILE, required=True, help="Rates and lengths (YAML)."),
        click.option("--slo", type=_FILE, required=True, help="Bounds of every request (YAML)."),
        click.option(
            "--accelerator",
            required=True,
            help="Like h200, or here for this machine, or a YAML file of your own.",
        ),
        click.option(
            "--evidence",
            type=_PATH,
            multiple=True,
            help="Result of slimgpt bench load --save on this model; several can be given.",
        ),
        click.option("--baseline", help="The dense model: what the pruned one saves."),
        click.option(
            "--baseline-evidence", type=_PATH, multiple=True, help="The same of --baseline."
        ),
        click.option("--price", type=float, help="Of an accelerator an hour; without it no money."),
    )
    for option in reversed(options):  # the first stands first in --help
        command = option(command)
    return command


def _served(command: Callable[..., None]) -> Callable[..., None]:
    """How a replica is served, and what is added."""
    options = (
        click.option(
            "--utilization",
            type=float,
            default=0.9,
            show_default=True,
            help="Share of each accelerator's memory that a replica takes.",
        ),
        click.option(
            "--tensor-parallel",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Accelerators of a replica.",
        ),
        click.option(
            "--max-sequences",
            type=click.IntRange(min=1),
            help="Most requests at once in a replica.  [default: the server's]",
        ),
        click.option(
            "--headroom",
            type=float,
            default=0.2,
            show_default=True,
            help="Share that is added to the peak.",
        ),
        click.option(
            "--spares",
            type=click.IntRange(min=0),
            default=1,
            show_default=True,
            help="Replicas that may fail.",
        ),
        click.option(
            "--efficiency",
            type=float,
            default=0.5,
            show_default=True,
            help="Of the roofline's speed, assumed where nothing was measured.",
        ),
    )
    for option in reversed(options):  # the first stands first in --help
        command = option(command)
    return command


def _results(command: Callable[..., None]) -> Callable[..., None]:
    """What is made of it."""
    options = (
        click.option("--verify", help="Address of a live replica: runs the planned rate on it."),
        click.option(
            "--duration",
            type=float,
            default=60.0,
            show_default=True,
            help="Seconds of --verify.",
        ),
        click.option("--api-key-file", type=_FILE, help="Key of --verify; or SLIMGPT_API_KEY."),
        click.option(
            "--write", type=_PATH, help="Directory for alert rules and autoscalers of this plan."
        ),
        click.option("--save", type=_PATH, help="Directory for the result."),
    )
    for option in reversed(options):  # the first stands first in --help
        command = option(command)
    return command


@click.command()
@click.argument("model", metavar="OUT")
@_asked
@_served
@_results
@seed_option
@device_options
@common
def capacity(
    console: Console, model: str, save: Path | None, write: Path | None, **given: Any
) -> None:
    """Plan how many accelerators serve OUT under this traffic and this SLO.

    Rates come from --evidence, load measurements of this very model; without any they are modelled
    from a roofline, and said to be. Exit code 1: --verify refutes the plan; 3: what was measured is
    not enough for one, or no rate meets the SLO.
    """
    job: Any = importlib.import_module("slimgpt_bench.capacity.job")
    results: Any = importlib.import_module("slimgpt_bench.results")
    operations: Any = importlib.import_module("slimgpt_bench.capacity.operations")
    if save:
        results.require_free(save)
    if write:
        operations.require_free(write)
    found = job.plan_capacity(_options(model, given), console)
    if write and not found.problem:  # nobody should run what was refuted
        for name in operations.write_operations(write, found.side, found.terms):
            console.message(f"wrote {write / name}")
    page: Any = importlib.import_module("slimgpt_bench.capacity.page")
    try:
        if save:
            checked = found.verification
            results.save(save, found.document, checked.requests if checked else None)
    finally:  # a disk that is full by now takes nothing from the screen
        console.result(found.document, page.page(found.document))
    if found.problem:
        raise found.problem


def _options(model: str, given: dict[str, Any]) -> Any:
    """The options as the planner takes them.

    Raises:
        UsageError: one of them means nothing.
    """
    from slimgpt.checkpoint.locate import locate

    _check(given)
    job: Any = importlib.import_module("slimgpt_bench.capacity.job")
    plan: Any = importlib.import_module("slimgpt_bench.capacity.plan")
    replica: Any = importlib.import_module("slimgpt_bench.capacity.replica")
    key: Any = importlib.import_module("slimgpt_bench.load.key")
    baseline = given.pop("baseline")
    margins = plan.Margins(given.pop("headroom"), given.pop("spares"))
    wishes = replica.Wishes(
        utilization=given.pop("utilization"),
        degree=given.pop("tensor_parallel"),
        sequences=given.pop("max_sequences"),
        dtype=given.pop("dtype"),
    )
    return job.Asked(
        model=locate(model),
        baseline=locate(baseline) if baseline else None,
        margins=margins,
        wishes=wishes,
        duration_s=given.pop("duration"),
        api_key=key.read_key(given.pop("api_key_file"), os.environ),
        **given,
    )


def _check(given: dict[str, Any]) -> None:
    def require(flag: str, good: bool, allowed: str) -> None:
        if not good:
            value = given[flag[2:]]
            raise UsageError(f"{flag} {value:g}: give {allowed}")

    require("--utilization", 0 < given["utilization"] <= 1, "a share above 0, 1 at most")
    require("--efficiency", 0 < given["efficiency"] <= 1, "a share above 0, 1 at most")
    require("--headroom", 0 <= given["headroom"] <= 100, "a share from 0, like 0.2")
    require("--duration", 0 < given["duration"] <= 1e6, "seconds above 0")
    price = given["price"]
    require("--price", price is None or 0 < price <= 1e6, "what an accelerator costs an hour")
    if given["baseline_evidence"] and not given["baseline"]:
        raise UsageError(
            "--baseline-evidence is of a dense model that is not given: add --baseline"
        )
