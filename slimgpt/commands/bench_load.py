"""``slimgpt bench load``: a server under load."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from slimgpt.commands.bench_load_table import shown
from slimgpt.commands.console import Console, accepted_everywhere, common, seed_option

_FILE = click.Path(path_type=Path, dir_okay=False)


def _loads(command: Callable[..., None]) -> Callable[..., None]:
    """What load to put on the server."""
    options = (
        click.option("--rate", help="Open loop: requests a second, one level each: 1,2,4,8."),
        click.option("--concurrency", help="Closed loop: requests under way, one level each."),
        click.option("--sweep", is_flag=True, help="Find the saturation, then levels around it."),
        click.option("--find-rate", is_flag=True, help="Search the highest rate that meets --slo."),
        click.option("--trace", type=_FILE, help="Replay a recorded traffic (JSON lines)."),
        click.option("--duration", type=float, default=60.0, show_default=True, help="Seconds."),
        click.option("--requests", type=int, help="Requests of a level, instead of --duration."),
        click.option(
            "--arrival",
            type=click.Choice(["poisson", "constant", "gamma"]),
            default="poisson",
            show_default=True,
            help="Of the open loop.",
        ),
        click.option(
            "--burstiness",
            type=float,
            default=1.0,
            show_default=True,
            help="Shape of gamma arrivals: 1 is Poisson, smaller is burstier.",
        ),
        click.option(
            "--concurrency-cap",
            type=int,
            help="Most requests under way in an open loop; the times of those that wait run on.",
        ),
        click.option(
            "--warmup",
            help="Requests, or seconds like 5s, before the measured part.  [default: 10; of a "
            "trace none]",
        ),
        click.option("--slo", type=_FILE, help="Bounds that requests are held to (YAML)."),
    )
    for option in reversed(options):  # as decorators are: the last comes first
        command = option(command)
    return command


def _requests(command: Callable[..., None]) -> Callable[..., None]:
    """What each request asks."""
    options = (
        click.option(
            "--prompt",
            help="Tokens: 128, 64:256, normal:MEAN,SD, lognormal:MEAN,SD.  [default: 128]",
        ),
        click.option("--output", help="Tokens of the answer, likewise.  [default: 64]"),
        click.option(
            "--dataset",
            type=_FILE,
            help="Prompts: ShareGPT or Alpaca JSON, JSON lines of prompts, or text to cut up.",
        ),
        click.option(
            "--tokenizer",
            type=click.Path(path_type=Path, file_okay=False),
            help="Of the served model.  [default: --artefact's]",
        ),
        click.option("--vocabulary", type=int, help="Token ids that the server takes."),
        click.option(
            "--endpoint",
            type=click.Choice(["completions", "chat"]),
            default="completions",
            show_default=True,
            help="What is asked.",
        ),
        click.option("--model", help="As the server names it.  [default: its only one]"),
        click.option(
            "--ignore-eos/--respect-eos",
            default=True,
            help="Ask for the whole length, or let answers end.  [default: ignore-eos]",
        ),
        click.option("--extra-body", help="Further fields of each request, as a JSON object."),
        click.option(
            "--timeout", type=float, default=300.0, show_default=True, help="Seconds of a request."
        ),
        click.option("--api-key-file", type=_FILE, help="Holds the key; SLIMGPT_API_KEY does too."),
    )
    for option in reversed(options):  # as decorators are: the last comes first
        command = option(command)
    return command


def _results(command: Callable[..., None]) -> Callable[..., None]:
    """What is told of it."""
    options = (
        click.option(
            "--artefact",
            type=click.Path(path_type=Path, file_okay=False),
            help="What is served: its digest and quality go into the result.",
        ),
        click.option(
            "--accept-errors",
            type=float,
            default=0.0,
            show_default=True,
            help="Share of failed requests up to which a level is valid; --sweep and --find-rate "
            "look for failures, and count them as misses.",
        ),
        click.option(
            "--require",
            type=click.Choice(["p95", "p99"]),
            help="Exit with 3 where there are too few requests for this percentile.",
        ),
        click.option("--save", type=click.Path(path_type=Path), help="Directory for the result."),
    )
    for option in reversed(options):  # as decorators are: the last comes first
        command = option(command)
    return command


@click.command()
@click.argument("url")
@_loads
@_requests
@_results
@accepted_everywhere("device", "dtype")
@seed_option
@common
def load(console: Console, url: str, save: Path | None, **given: Any) -> None:
    """Measure the server at URL under load: open loop, closed loop, sweep or SLO search.

    Times run from the scheduled send, so that nothing that waits is hidden. Exit code 3: the
    numbers can't be used, and the last lines say why.
    """
    results: Any = importlib.import_module("slimgpt_bench.results")
    options = _options(given)
    if save:
        results.require_free(save)
    job: Any = importlib.import_module("slimgpt_bench.load.job")
    found = job.run_load(url, options, console)
    if save:
        results.save(save, found.document, found.requests)
    console.result(found.document, shown(found.document))
    problem = found.problem()
    if problem:
        raise problem


def _options(given: dict[str, Any]) -> Any:
    """The options as the load package takes them."""
    module: Any = importlib.import_module("slimgpt_bench.load.options")
    spelling: Any = importlib.import_module("slimgpt_bench.load.spelling")
    slo: Any = importlib.import_module("slimgpt_bench.slo")
    key: Any = importlib.import_module("slimgpt_bench.load.key")
    rate, places, warmup = (given.pop(x) for x in ("rate", "concurrency", "warmup"))
    slo_file, extra = given.pop("slo"), given.pop("extra_body")
    return module.LoadOptions(
        rates=spelling.numbers(rate, "--rate") if rate else (),
        concurrency=spelling.whole_numbers(places, "--concurrency") if places else (),
        duration_s=given.pop("duration"),
        timeout_s=given.pop("timeout"),
        warmup=module.Warmup.parse(warmup) if warmup else None,
        slo=slo.read_slo(slo_file) if slo_file else None,
        extra_body=spelling.body_fields(extra),
        api_key=key.read_key(given.pop("api_key_file"), os.environ),
        **given,
    )
