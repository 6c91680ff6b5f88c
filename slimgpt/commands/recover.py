"""``slimgpt recover``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from slimgpt.commands.console import Console, common, device_options, resume_option, seed_option
from slimgpt.recover.options import PROMPTS, SCHEDULES, RecoverOptions

_DEFAULT = RecoverOptions()
_COUNTS = {
    "rank": "Of the low-rank updates.",
    "warmup-steps": "Over which the learning rate rises from zero.",
    "batch-size": "Examples an optimiser step.",
    "micro-batch": "Examples in memory at once; steps add up several.",
    "max-length": "Tokens an example is cut to.",
    "held-out": "Examples kept back to watch, at most a tenth of all.",
    "evaluations": "Of the held-out loss, over the whole training.",
}
_NUMBERS = {
    "alpha": "The updates are scaled by alpha / rank.",
    "dropout": "On the input of the updates, while training.",
    "learning-rate": "Highest of the schedule.",
    "weight-decay": "Of AdamW.",
    "max-grad-norm": "Gradients are clipped to this norm.",
    "epochs": "Passes over the data.",
    "distill-weight": "Share of KL(dense || model) in the loss, 0 to 1; 0.5 with --distill.",
    "temperature": "Softens both distributions of that KL.",
}


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for every number of RecoverOptions, with its default."""
    for names, kind in ((_NUMBERS, float), (_COUNTS, int)):
        for name, words in reversed(names.items()):
            default = getattr(_DEFAULT, name.replace("-", "_"))
            command = click.option(
                f"--{name}", type=kind, default=default, show_default=True, help=words
            )(command)
    return command


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--data",
    multiple=True,
    required=True,
    help="What to train on: a .txt, .jsonl or .json file (repeatable), alpaca or gpt4-alpaca from "
    "the hub. Of rows with instruction, input and output, only the output is scored.",
)
@click.option(
    "--prompt",
    type=click.Choice(PROMPTS),
    default=_DEFAULT.prompt,
    show_default=True,
    help="How an instruction is put: Alpaca's template, the model's own, or bare.",
)
@click.option("--distill", help="The dense model, to learn its predictions too.")
@training_options
@click.option("--max-steps", type=int, help="Optimiser steps, instead of --epochs.")
@click.option(
    "--lr-schedule",
    "schedule",
    type=click.Choice(SCHEDULES),
    default=_DEFAULT.schedule,
    show_default=True,
    help="Of the learning rate after the warm-up.",
)
@click.option("--gradient-checkpointing", is_flag=True, help="Half the memory, a third more time.")
@resume_option
@seed_option
@device_options
@common
def recover(
    console: Console,
    model: str,
    out: Path,
    data: tuple[str, ...],
    distill: str | None,
    resume: bool,
    **options: Any,
) -> None:
    """Heal the pruned MODEL with LoRA and write it to OUT as plain weights.

    The defaults are the SlimGPT paper's, made for 7 B parameters; a small model may want a higher
    --learning-rate. A held-out part of the data is watched: the best step is kept, and where none
    is better than no training, nothing is written and the exit code is 1.
    """
    if distill and _left_out("distill_weight"):
        options["distill_weight"] = 0.5
    settings = RecoverOptions(fresh=not resume, **options)
    from slimgpt.checkpoint.locate import locate
    from slimgpt.destination import require_absent
    from slimgpt.evaluate.perplexity import perplexity
    from slimgpt.recover.driver import recover as run

    require_absent(out)
    directory = locate(model)
    result = run(
        directory,
        out,
        data,
        settings,
        dense=locate(distill) if distill else None,
        source_name=None if Path(model).is_dir() else model,
        progress=console,
    )
    quality = result.quality
    before, after = (perplexity(quality["held_out_loss"][when]) for when in ("before", "after"))
    console.result(
        result.to_json(),
        f"{out}: held-out perplexity {before:.3f} became {after:.3f} (best at step "
        f"{quality['best_step']} of {quality['steps']}), merged with logits within "
        f"{quality['merged']['largest_logit_difference']:.3g} of the adapter's, in "
        f"{result.seconds:.1f} s",
    )


def _left_out(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is ParameterSource.DEFAULT
