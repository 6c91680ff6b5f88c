"""The options of pruning, shared by ``plan`` and ``prune``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from slimgpt.errors import UsageError
from slimgpt.planning import Constraints
from slimgpt.prune.options import DEPTH, METHOD_NAMES, PruneOptions
from slimgpt.schedule import SCHEDULES

_OPTIONS = (
    click.option(
        "--ratio",
        type=float,
        required=True,
        help="Fraction of decoder parameters to remove, at least 0 and below 1.",
    ),
    click.option(
        "--schedule",
        type=click.Choice(SCHEDULES),
        help="How the ratio grows over depth.  [default: log, the paper's]",
    ),
    click.option(
        "--first-layer-ratio",
        type=float,
        help="Smallest ratio of the schedule: the first layer's, or the last one's where it "
        "decreases.  [default: 1/16, less below a ratio of 0.2]",
    ),
    click.option(
        "--method",
        type=click.Choice(METHOD_NAMES),
        default="exact",
        show_default=True,
        help="slimgpt is the paper's algorithm; exact scores groups exactly and refits; depth "
        "drops whole layers, those that change the hidden states least.",
    ),
    click.option(
        "--kv-heads",
        type=click.Choice(["keep", "prune"]),
        help="Grouped-query models: keep all KV heads and remove query heads evenly, or remove "
        "whole KV groups.  [default: keep]",
    ),
    click.option("--align", type=int, default=1, help="FFN widths are a multiple of this."),
    click.option(
        "--tensor-parallel", type=int, default=1, help="Every layer splits over this many GPUs."
    ),
    click.option(
        "--uniform", is_flag=True, help="Same widths in all layers: loads as a stock model."
    ),
    click.option(
        "--damping", type=float, help="Relative damping of the Gram matrix.  [default: 0.01]"
    ),
)


def pruning_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that decide the shape and the method."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def window_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--samples`` and ``--sequence-length``."""
    command = click.option(
        "--sequence-length",
        type=int,
        help="Tokens in a window.  [default: 2048, or the model's context]",
    )(command)
    return click.option(
        "--samples", type=int, default=128, show_default=True, help="Calibration windows."
    )(command)


def prune_options(
    *,
    ratio: float,
    schedule: str | None,
    first_layer_ratio: float | None,
    method: str,
    kv_heads: Any,
    align: int,
    tensor_parallel: int,
    uniform: bool,
    damping: float | None,
    **execution: Any,
) -> PruneOptions:
    """PruneOptions from the command line's values.

    Raises:
        UsageError: options that contradict each other.
    """
    if uniform and (schedule not in (None, "uniform") or first_layer_ratio is not None):
        raise UsageError(
            "--uniform gives all layers the same widths: leave out --schedule and "
            "--first-layer-ratio"
        )
    if method == DEPTH and schedule is not None:
        raise UsageError(
            "--method depth drops whole layers and changes no width: leave out --schedule"
        )
    return PruneOptions(
        ratio=ratio,
        method=method,
        schedule=schedule or "log",
        first_layer_ratio=first_layer_ratio,
        constraints=Constraints(kv_heads, align, tensor_parallel, uniform),
        damping=damping,
        **execution,
    )
