"""``slimgpt bench latency``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slimgpt.commands.console import Console, common, device_options, seed_option
from slimgpt.commands.measuring import (
    compiled_and_threads,
    engine_and_cells,
    latency_options,
    save_option,
    trials_and_warmup,
)
from slimgpt.errors import UsageError

_WHOLE = 999.5
"""Rounds to a thousand, which three digits would write as 1e+03."""

_PRESET_SETS = ("batch", "prompt", "output", "runs", "trials")


@click.command()
@click.argument("model", metavar="OUT")
@engine_and_cells
@click.option(
    "--runs",
    type=int,
    default=6,
    show_default=True,
    help="Fresh processes; an interval needs three, a bootstrap of them six.",
)
@trials_and_warmup
@click.option(
    "--preset",
    type=click.Choice(["paper"]),
    help="SlimGPT's own table: one text of up to 512 tokens, 50 trials (10 in each of 5 runs).",
)
@compiled_and_threads
@save_option
@seed_option
@device_options
@common
def latency(console: Console, model: str, save: Path | None, **options: Any) -> None:
    """Measure how fast a model alone is, and what memory it takes.

    Prefill, time to first token, time per output token, gaps between tokens and end to end, for
    every combination of --batch, --prompt and --output: medians with 95 % intervals over fresh
    processes. Exit code 3: measured, but not to be relied on; the last lines say why.
    """
    from slimgpt.checkpoint.locate import locate

    job: Any = importlib.import_module("slimgpt_bench.latency.job")
    results: Any = importlib.import_module("slimgpt_bench.results")
    asked, protocol = _asked(job, options)
    if save:
        results.require_free(save)
    artefact, asked = job.read_model(locate(model), asked, protocol.preset)
    measured = job.measure(artefact, asked, protocol, console)
    console.result(measured.document, _shown(measured.document))
    if save:
        results.save(save, measured.document, measured.records())
    job.require_valid(measured.document)


def _asked(job: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """The job's options, from the command's."""
    job.require_numbers(options["runs"], options["trials"], options["warmup"])
    asked = latency_options(options)
    if options["preset"] is None:
        return asked, job.Protocol(options["runs"])
    _require_unset(options["preset"])
    return job.paper(asked)  # type: ignore[no-any-return]


def _require_unset(preset: str) -> None:
    """Refuses options that the preset decides: with others it would not be what it is named."""
    ctx = click.get_current_context()
    given = [
        f"--{name}"
        for name in _PRESET_SETS
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    ]
    if given:
        raise UsageError(
            f"--preset {preset} decides {', '.join(given)}: leave that out, or leave out --preset"
        )


def _shown(document: dict[str, Any]) -> RenderableType:
    notes = [f"note      {x}" for x in document["problems"] if document["valid"]]
    lines = [_memory(document["memory"]), *notes, _protocol(document)]
    return Group(_table(document["cells"]), Text("\n".join(lines)))


def _table(cells: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("batch", "prompt", "output"):
        table.add_column(name, justify="right")
    for name in ("first token ms", "per token ms", "end to end ms", "decode tokens/s"):
        table.add_column(name, justify="right")
    for cell in cells:
        table.add_row(
            *(str(cell[k]) for k in ("batch", "prompt_tokens", "output_tokens")),
            *(_cell(cell[k], 1000) for k in ("ttft_s", "tpot_s", "e2e_s")),
            _cell(cell["decode_tokens_per_s"], 1),
        )
    return table


def _cell(quantity: dict[str, Any], scale: float) -> str:
    """``12.3 (12.1, 12.5)``: median and 95 % interval."""
    median, interval = quantity["median"], quantity["interval"]
    if isinstance(median, str):
        return median
    if isinstance(interval, str):
        return f"{_number(scale * median)} ({interval})"
    low, high = (_number(scale * x) for x in interval)
    return f"{_number(scale * median)} ({low}, {high})"


def _number(value: float) -> str:
    """Three digits that count; whole numbers from a thousand on."""
    return f"{value:.3g}" if value < _WHOLE else f"{value:,.0f}"


def _memory(memory: dict[str, dict[str, Any]]) -> str:
    def size(kind: str, key: str) -> str:
        return _bytes(memory[kind].get(key))

    if not memory:
        return "memory    not measured"
    kv, process = memory["kv"], memory["process"]
    tokens = kv["token_capacity"]
    room = "" if tokens is None else f", room for {tokens:,} tokens ({kv['token_capacity_source']})"
    taken = kv["measured_bytes_per_token"]
    if taken is not None and round(taken) != kv["bytes_per_token"]:
        room = f", {taken:,.0f} as the engine keeps it{room}"
    lines = [
        f"weights   {size('weights', 'file_bytes')} in files, {size('weights', 'resident_bytes')} "
        "in memory",
        f"kv cache  {kv['bytes_per_token']:,} bytes a token{_type(kv)}{room}",
    ]
    if memory["allocator"]["peak_allocated_bytes"] is not None:
        lines.append(
            f"allocator {size('allocator', 'peak_allocated_bytes')} at most in use, "
            f"{size('allocator', 'peak_reserved_bytes')} reserved"
        )
    if memory["device"]["total_bytes"] is not None:
        lines.append(
            f"device    {size('device', 'used_bytes')} of {size('device', 'total_bytes')} in use, "
            "of all processes"
        )
    lines.append(
        f"process   {size('process', 'pss_bytes')} after a trial (PSS), "
        f"{size('process', 'high_water_bytes')} at most since {process['high_water_since']}, "
        f"{size('process', 'baseline_bytes')} before the model"
    )
    if bare := process.get("without_arena"):
        lines.append(
            f"          without ONNX Runtime's arena {_bytes(bare['pss_bytes'])} after a trial, "
            f"{_bytes(bare['high_water_bytes'])} at most"
        )
    return "\n".join(lines)


def _type(kv: dict[str, Any]) -> str:
    return f" in {kv['dtype']}" if kv.get("dtype") else ""


def _bytes(value: int | None) -> str:
    from slimgpt.resources import human_bytes

    return "not told" if value is None else human_bytes(value)


def _protocol(document: dict[str, Any]) -> str:
    how, settings, where = document["protocol"], document["settings"], document["environment"]
    name = settings.get("device_name") or where["cpu"]
    threads = (
        ""
        if str(settings["device"]).startswith("cuda")
        else f", {_count(settings['threads'], 'thread')}"
    )
    preset = f"preset {how['preset']}, " if how["preset"] else ""
    compiled = "compiled" if settings["compiled"] else "not compiled"
    return (
        f"{preset}{_count(how['runs'], 'run')} of {_count(how['trials'], 'trial')}; medians with "
        f"95 % intervals over runs; {document['engine']} {settings['version']}, "
        f"{settings['dtype']}, {compiled}, {name}{threads}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
