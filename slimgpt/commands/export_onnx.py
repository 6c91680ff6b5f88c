"""``slimgpt export onnx``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from slimgpt.commands.console import Console, accepted_everywhere, common, seed_option
from slimgpt.resources import human_bytes


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8", "int4"]),
    default="fp32",
    show_default=True,
    help="Of the weights: fp32, int8 and int4 for CPUs, fp16 and bf16 for GPUs.",
)
@click.option(
    "--block-size",
    type=click.Choice(["16", "32", "64", "128", "256"]),
    default="32",
    show_default=True,
    help="int8, int4: values of a row that share a scale, at most.",
)
@click.option("--asymmetric", is_flag=True, help="int8, int4: store a zero point a block too.")
@click.option(
    "--accuracy-level",
    type=click.Choice(["0", "4"]),
    default="4",
    show_default=True,
    help="int8, int4: 4 computes in int8, 0 in the type of the activations (slow on CPUs).",
)
@click.option(
    "--activations",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="int8, int4: what activations are; GPUs take float16 or bfloat16.",
)
@click.option(
    "--keep",
    default="auto",
    show_default=True,
    help="int8, int4: parts that stay at higher precision, with commas between: first, last "
    "(layers) and head; none; or auto, by measured KL.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="What logits and KL are measured on.  [default: English text that comes with slimgpt]",
)
@click.option(
    "--portable",
    is_flag=True,
    help="Standard operators alone, for other runtimes and other architectures: slower to write "
    "and to run.",
)
@seed_option
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1: for the check."
)
@accepted_everywhere("dtype")
@common
def onnx(
    console: Console,
    model: str,
    out: Path,
    precision: str,
    block_size: str,
    accuracy_level: str,
    **given: Any,
) -> None:
    """Write MODEL to OUT as one ONNX graph, for ONNX Runtime and ONNX Runtime GenAI.

    The weights are read and written one by one. Then the graph runs on real text, and an OUT whose
    logits are not torch's is removed, with exit code 1.
    """
    from slimgpt.checkpoint.locate import locate
    from slimgpt.destination import require_absent

    # What needs no torch comes first: importing it takes seconds.
    directory = locate(model)
    require_absent(out)
    options = importlib.import_module("slimgpt_export.onnx.options").make_options(
        precision=precision,
        block_size=int(block_size),
        accuracy_level=int(accuracy_level),
        **given,
    )
    importlib.import_module("slimgpt_export.onnx.packages").require_packages()
    job: Any = importlib.import_module("slimgpt_export.onnx.job")
    result = job.export_onnx(
        directory,
        out,
        options,
        source_name=None if Path(model).is_dir() else model,
        progress=console,
    )
    console.result(_document(result), Group(*_rendered(result)))


def _document(result: Any) -> dict[str, Any]:
    return {
        "out": str(result.out),
        "precision": result.precision.name,
        "weight_bytes": result.weight_bytes,
        "added_neurons": result.geometry.added_neurons if result.geometry else 0,
        "head_dim": result.geometry.graph.head_dim if result.geometry else None,
        **result.measured,
        "seconds": result.seconds,
        "peak_rss_bytes": result.peak_rss_bytes,
    }


def _rendered(result: Any) -> list[Any]:
    parity = result.measured["parity"]
    table = Table(title="against torch")
    for column in ("", "positions", "largest difference", "mean", "same likeliest token"):
        table.add_column(column, justify="right" if column else "left")
    for what in ("prefill", "decode"):
        entry = parity[what]
        table.add_row(
            what,
            str(entry["positions"]),
            f"{entry['largest']:.2g}",
            f"{entry['mean']:.2g}",
            f"{entry['agreement']:.1%}",
        )
    return [table, Text("\n".join(_lines(result, parity)))]


def _lines(result: Any, parity: dict[str, Any]) -> list[str]:
    geometry = result.geometry
    lines = [
        f"{result.out}: {result.precision.name}, {human_bytes(result.weight_bytes)} of weights, in "
        f"{result.seconds:.1f} s; differences in standard deviations of the logits, on "
        f"{parity['text']}"
    ]
    if rounding := parity["rounding"]:
        lines.append(
            f"rounding the weights: KL {rounding['kl']:.3g} nats a token, the same likeliest token "
            f"at {rounding['agreement']:.1%} of {rounding['positions']} positions"
        )
        parts = ", ".join(
            f"{part} ({'not quantised' if bits is None else f'{bits} bits'})"
            for part, bits in result.precision.higher.items()
        )
        lines.append(f"at higher precision: {parts or 'nothing'}")
    if parity["computed_in"] != result.precision.activations:
        lines.append(
            f"computed in {parity['computed_in']} for the check: ONNX Runtime has no "
            f"{result.precision.activations} kernels for CPUs, and OUT needs a GPU"
        )
    if geometry is None:
        return [*lines, "MODEL is of no family that slimgpt knows: OUT has no slimgpt.json"]
    if geometry.widened_heads:
        lines.append(
            f"heads of {geometry.source.head_dim} are {geometry.graph.head_dim} wide in the graph, "
            "filled up with zeros: ONNX Runtime takes multiples of 16"
        )
    if geometry.added_neurons:
        lines.append(
            f"{geometry.added_neurons} FFN neurons of zeros were added, where no block of values "
            "divides the width"
        )
    return lines
