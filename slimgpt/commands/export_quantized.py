"""``slimgpt export quantized``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from slimgpt.commands.console import LARGEST_SEED, Console, common, device_options
from slimgpt.resources import human_bytes


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--scheme",
    type=click.Choice(["fp8", "w8a8", "w4a16"]),
    required=True,
    help="fp8: 8-bit floats; no calibration, but text to measure on. w8a8: 8-bit integers, which "
    "vLLM 0.32 does not run on Blackwell GPUs. w4a16: 4-bit weights.",
)
@click.option(
    "--group-size",
    type=int,
    default=128,
    show_default=True,
    help="Of w4a16: inputs that share a scale; 32, 64 or 128.",
)
@click.option(
    "--runs-on",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="Where it is to be served: widths that a kernel refuses there are told at once.",
)
@click.option(
    "--tensor-parallel",
    type=int,
    default=1,
    show_default=True,
    help="GPUs that share every layer when it is served.",
)
@click.option(
    "--calibration",
    multiple=True,
    help="Text to calibrate on: a .txt, .jsonl or .json file (repeatable), c4, wikitext2, alpaca "
    "or gpt4-alpaca from the hub, or self for samples of MODEL.  [default: of the pruning run]",
)
@click.option("--samples", type=int, help="Calibration windows.  [default: of the pruning run]")
@click.option(
    "--sequence-length", type=int, help="Tokens in a window.  [default: of the pruning run]"
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="What to measure on.  [default: windows of the calibration text that were not used]",
)
@click.option(
    "--window", type=int, help="Tokens in a window of --text.  [default: --sequence-length]"
)
@click.option(
    "--max-kl",
    type=float,
    help="Most KL(MODEL || quantised) in nats a token; above it the exit code is 1 and nothing is "
    "written.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    help="Of the choice of windows.  [default: of the pruning run]",
)
@device_options
@common
def quantized(
    console: Console,
    model: str,
    out: Path,
    scheme: str,
    group_size: int,
    runs_on: str,
    tensor_parallel: int,
    calibration: tuple[str, ...],
    samples: int | None,
    sequence_length: int | None,
    text: Path | None,
    window: int | None,
    max_kl: float | None,
    seed: int | None,
    device: str,
    dtype: str,
) -> None:
    """Write MODEL to OUT with 8-bit or 4-bit weights, as vLLM and transformers load them.

    The matrices of the decoder layers are quantised, in the compressed-tensors format; embeddings
    and LM head stay. The result is read back, and its perplexity and its divergence from MODEL are
    measured on text that it was not calibrated on.
    """
    from slimgpt.checkpoint.locate import locate
    from slimgpt.destination import require_absent

    # The export package imports the core, never the other way round.
    schemes: Any = importlib.import_module("slimgpt_export.quantize_schemes")
    data: Any = importlib.import_module("slimgpt_export.quantize_data")
    job: Any = importlib.import_module("slimgpt_export.quantize")
    options: Any = importlib.import_module("slimgpt_export.quantize_options")
    target = schemes.Target(schemes.SCHEMES[scheme], group_size, runs_on, tensor_parallel)
    asked = data.DataOptions(calibration, samples, sequence_length, seed, text, window)
    require_absent(out)
    result = job.quantize(
        locate(model),
        out,
        options.QuantizeOptions(target, asked, max_kl, device, dtype),
        source_name=None if Path(model).is_dir() else model,
        progress=console,
    )
    console.result(result.to_json(), _summary(result))


def _summary(result: Any) -> str:
    found = result.quality
    size = found["weight_bytes"]
    lines = [
        f"{result.out}: {result.scheme}, weights {human_bytes(size['before'])} became "
        f"{human_bytes(size['after'])}, in {result.seconds:.1f} s",
        f"perplexity {found['baseline_perplexity']} became {found['perplexity']}, KL {found['kl']} "
        f"nats a token, on {found['tokens']:,} tokens of {found['text']} ({found['how']})",
    ]
    if result.padded:
        lines.append(
            f"{result.padded} matrices have widths that vLLM's kernels pad or compute more slowly; "
            "FFN widths of slimgpt prune --align 128 are taken as they are"
        )
    return "\n".join(lines)
