"""``slimgpt prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slimgpt.commands.console import Console, common, device_options, resume_option, seed_option
from slimgpt.commands.pruning import prune_options, pruning_options, window_options
from slimgpt.resources import human_bytes

CALIBRATION_HELP = (
    "Text to calibrate on: a .txt, .jsonl or .json file (repeatable), c4, wikitext2, alpaca or "
    "gpt4-alpaca from the hub, or self for samples of the model itself.  [default: c4]"
)


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@pruning_options
@click.option("--calibration", multiple=True, default=("c4",), help=CALIBRATION_HELP)
@window_options
@click.option(
    "--activations",
    type=click.Choice(["auto", "memory", "disk"]),
    default="auto",
    show_default=True,
    help="Where the hidden states of the calibration windows are kept.",
)
@resume_option
@seed_option
@device_options
@common
def prune(
    console: Console,
    model: str,
    out: Path,
    calibration: tuple[str, ...],
    samples: int,
    sequence_length: int | None,
    resume: bool,
    seed: int,
    **options: Any,
) -> None:
    """Prune MODEL into OUT, a smaller checkpoint.

    Whole attention heads and FFN neurons go, chosen and compensated by the Optimal Brain Surgeon.
    One decoder layer is in memory at a time. A killed run leaves OUT.partial, and the same
    command goes on from there.
    """
    settings = prune_options(fresh=not resume, **options)
    from slimgpt.calibration import load_calibration
    from slimgpt.checkpoint.locate import locate
    from slimgpt.destination import require_absent
    from slimgpt.prune.driver import prune as run

    require_absent(out)
    directory = locate(model)
    result = run(
        directory,
        out,
        settings,
        lambda checkpoint: load_calibration(
            checkpoint,
            calibration,
            samples=samples,
            sequence_length=sequence_length,
            seed=seed,
            device=settings.device,
            progress=console,
        ),
        source_name=None if Path(model).is_dir() else model,
        progress=console,
    )
    plan = result.plan
    before, after = plan.source.parameters, plan.target.parameters
    console.result(
        result.to_json(),
        f"{out}: {before:,} parameters became {after:,}; {plan.achieved:.2%} of the decoder's "
        f"removed ({plan.ratio:.2%} asked), in {result.seconds:.1f} s, peak memory "
        f"{human_bytes(result.peak_rss_bytes)}",
    )
