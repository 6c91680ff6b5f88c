"""``slimgpt export stock``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.text import Text

from slimgpt.commands.console import (
    Console,
    accepted_everywhere,
    common,
    resume_option,
    seed_option,
)
from slimgpt.commands.shapes import totals, totals_table


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--pad",
    is_flag=True,
    help="Fill layers up with zeros to the same widths, where they differ: the same function, for "
    "more memory, as told.",
)
@resume_option
@seed_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@accepted_everywhere("dtype")
@common
def stock(
    console: Console, model: str, out: Path, pad: bool, resume: bool, seed: int, device: str
) -> None:
    """Write MODEL to OUT so that transformers and vLLM load it without slimgpt.

    Same widths in all layers (slimgpt prune --uniform) become a stock Llama, Mistral, Qwen2 or
    Qwen3; other models need --pad. The logits of MODEL and OUT are compared in float32 on random
    tokens of --seed, and an OUT that is another function is removed, with exit code 1.
    """
    from slimgpt.checkpoint.locate import locate

    job: Any = importlib.import_module("slimgpt_export.stock")  # the core imports it by name alone
    result = job.export_stock(
        locate(model),
        out,
        job.StockOptions(pad, seed, device, fresh=not resume),
        source_name=None if Path(model).is_dir() else model,
        progress=console,
    )
    layout, width = result.layout, result.bytes_per_value
    table = totals_table([("MODEL", layout.source), ("OUT", layout.shape)], width)
    console.result(_document(result), Group(table, Text(_summary(result))))


def _document(result: Any) -> dict[str, Any]:
    layout, width = result.layout, result.bytes_per_value
    return {
        "out": str(result.out),
        "architecture": layout.architecture,
        "stock_before": layout.copied,
        "padded": layout.padded,
        "source": totals(layout.source, width),
        "result": totals(layout.shape, width),
        "dense": _dense(result),
        "parity": result.parity.to_json() if result.parity else None,
        "seconds": result.seconds,
        "peak_rss_bytes": result.peak_rss_bytes,
    }


def _dense(result: Any) -> dict[str, int] | None:
    if result.dense is None:
        return None
    return {
        "parameters": result.dense["before"],
        "decoder_parameters": result.dense["decoder_before"],
        "weight_bytes": result.dense["before"] * result.bytes_per_value,
    }


def _summary(result: Any) -> str:
    layout = result.layout
    how = "padded with zeros" if layout.padded else "the same weights"
    if layout.shape.output_bias != layout.source.output_bias:
        how += " and output biases of zero"
    lines = [f"{result.out}: {layout.architecture}, {how}"]
    if layout.copied:
        lines = [f"{result.out}: a copy, as MODEL is a stock {layout.architecture} already"]
    dense = _dense(result)
    if dense:
        share = layout.shape.decoder_parameters / dense["decoder_parameters"]
        lines.append(
            f"{share:.1%} of the {dense['decoder_parameters']:,} decoder parameters of the dense "
            f"model, whose weights are {dense['weight_bytes']:,} bytes"
        )
    if result.parity:
        lines.append(
            f"logits of {result.parity.tokens} positions differ by at most "
            f"{result.parity.largest_difference:.3g} ({result.parity.relative:.1g} standard "
            "deviations)"
        )
    return "\n".join(lines)
