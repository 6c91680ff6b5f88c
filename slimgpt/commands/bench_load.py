"""``slimgpt bench load``: a server under load."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

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
            default="10",
            show_default=True,
            help="Requests, or seconds like 5s, before the measured part.",
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
            help="Share of failed requests up to which a level is valid.",
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
    console.result(found.document, _shown(found.document))
    problem = found.problem()
    if problem:
        raise problem


def _options(given: dict[str, Any]) -> Any:
    """The options as the load package takes them."""
    module: Any = importlib.import_module("slimgpt_bench.load.options")
    slo: Any = importlib.import_module("slimgpt_bench.slo")
    key: Any = importlib.import_module("slimgpt_bench.load.key")
    rate, places = given.pop("rate"), given.pop("concurrency")
    slo_file, extra = given.pop("slo"), given.pop("extra_body")
    return module.LoadOptions(
        rates=module.numbers(rate, "--rate") if rate else (),
        concurrency=module.whole_numbers(places, "--concurrency") if places else (),
        duration_s=given.pop("duration"),
        timeout_s=given.pop("timeout"),
        warmup=module.Warmup.parse(given.pop("warmup")),
        slo=slo.read_slo(slo_file) if slo_file else None,
        extra_body=module.body_fields(extra),
        api_key=key.read_key(given.pop("api_key_file"), os.environ),
        **given,
    )


# -- for people ---------------------------------------------------------------------------------


def _shown(document: Mapping[str, Any]) -> Group:
    words: Any = importlib.import_module("slimgpt_bench.load.document")
    table = Table(box=None, pad_edge=False)
    table.add_column("load", no_wrap=True)
    for name in ("TTFT ms", "95 %", "p95", "p99", "TPOT ms", "E2E ms", "answers/s", "good/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ok", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for level in document["levels"]:
        asked = level["requests"]
        table.add_row(
            words.named(level["offered"]),
            *_quantity(level["ttft_s"]),
            *(_ms(level[name]["median"]) for name in ("tpot_s", "e2e_s")),
            f"{level['achieved_rps']:.2f}",
            f"{level['goodput_rps']:.2f}",
            f"{asked['ok']}/{asked['sent']}",
            _marks(level),
        )
    told = [line for line in (_search(document), _protocol(document)) if line]
    return Group(table, *map(Text, told))


def _quantity(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    interval = found["interval"]
    ends = interval if isinstance(interval, str) else " to ".join(map(_ms, interval))
    return _ms(found["median"]), ends, _ms(found["p95"]), _ms(found["p99"])


def _ms(seconds: float | str) -> str:
    if isinstance(seconds, str):
        return seconds
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _marks(level: Mapping[str, Any]) -> str:
    share = level["attainment"]
    marks = [f"SLO {share['value']:.1%}"] if share else []
    marks += ["saturated"] if level["saturated"] else []
    marks += [] if level["valid"] else ["invalid"]
    return ", ".join(marks)


def _search(document: Mapping[str, Any]) -> str:
    search = document["search"]
    if not search:
        return ""
    if search["kind"] == "sweep":
        return f"saturation: {search['saturation_rps']:.3g} answers a second"
    if search["rate_rps"] is None:
        return f"no rate meets the SLO: {search['why']}"
    beyond = search["too_high_rps"]
    bound = f"{beyond:.4g} was not shown to" if beyond else search["why"]
    return f"highest rate that meets the SLO: {search['rate_rps']:.4g} requests a second ({bound})"


def _protocol(document: Mapping[str, Any]) -> str:
    load, target = document["load"], document["target"]
    asked = document["workload"]
    lengths = [
        f"{asked[name]['mean']:.0f} {word} tokens"
        for name, word in (("prompt_tokens", "prompt"), ("output_tokens", "output"))
        if asked[name]
    ]
    loop = "closed loop" if load["arrival"] == "closed" else f"{load['arrival']} arrivals"
    seed = f"seed {load['seed']}"
    parts = [f"{target['model']} at {target['url']}", loop, *lengths, seed]
    if load["concurrency_cap"]:
        parts.append(f"at most {load['concurrency_cap']} under way")
    return ", ".join(parts) + "; times run from the scheduled send"
