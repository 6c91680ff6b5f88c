"""``slimgpt plan``: nothing here or below imports torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.console import Group
from rich.text import Text

from slimgpt.calibration import window_length
from slimgpt.checkpoint.locate import locate
from slimgpt.checkpoint.reader import read_config
from slimgpt.commands.console import Console, accepted_everywhere, common
from slimgpt.commands.pruning import prune_options, pruning_options, window_options
from slimgpt.commands.shapes import layer_table, shape_document, totals_table
from slimgpt.estimate import estimate
from slimgpt.resources import human_bytes

_PER_LAYER = (
    "Loads through slimgpt: import slimgpt for transformers, its plugin for vLLM; slimgpt export "
    "stock --pad makes a stock model of it."
)


@click.command()
@click.argument("model")
@pruning_options
@window_options
@accepted_everywhere("seed", "device", "dtype", "calibration")
@common
def plan(
    console: Console, model: str, samples: int, sequence_length: int | None, **options: Any
) -> None:
    """Show what pruning MODEL would give: per-layer shapes, sizes and cost. Reads no weights."""
    meta = read_config(locate(model, config_only=True))
    planned = prune_options(**options).plan(meta.shape)
    tokens = window_length(meta.context_length, samples, sequence_length)
    cost = estimate(planned, samples, tokens, meta.bytes_per_value)
    document = {
        "model": model,
        "ratio": {"asked": planned.ratio, "achieved": planned.achieved},
        "kv_heads": planned.kv_heads,
        "dense": shape_document(planned.source, meta.bytes_per_value),
        "planned": shape_document(planned.target, meta.bytes_per_value),
        "estimate": asdict(cost) | {"samples": samples, "sequence_length": tokens},
    }
    # Not every uniform shape has a stock class.
    kind = meta.family.pruned_config(meta.config, planned.target)["model_type"]
    stock = kind != meta.family.pruned_model_type
    summary = (
        f"{planned.achieved:.2%} of the decoder's parameters removed ({planned.ratio:.2%} asked); "
        f"weights and KV cache in {meta.dtype}. "
        f"{f'Loads as a stock {kind} model.' if stock else _PER_LAYER}\n"
        f"Estimate for {samples} x {tokens} calibration tokens on this CPU "
        f"({cost.gflops_per_s:.0f} GFLOP/s measured): {cost.seconds:.0f} s, "
        f"{human_bytes(cost.peak_memory_bytes)} of memory."
    )
    tables = (
        layer_table(planned.target, planned),
        totals_table(
            [("dense", planned.source), ("planned", planned.target)], meta.bytes_per_value
        ),
    )
    console.result(document, Group(*tables, Text(summary)))
