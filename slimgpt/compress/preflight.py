"""What can be found wrong with a job before its first weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimgpt.calibration import window_length
from slimgpt.checkpoint.reader import Checkpoint, ConfigOnly
from slimgpt.compress import inputs
from slimgpt.errors import UsageError
from slimgpt.evaluate.judge import check
from slimgpt.loading import require_loadable
from slimgpt.planning import Plan
from slimgpt.release.recipe.recipe import Recipe, prune_options_of
from slimgpt.resources import resolve_device


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how a job computes.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: ``auto`` is float32 on a CPU and the stored type on a GPU.
        fresh: throw away an unfinished job instead of resuming it.
        report: folder for report.json, junit.xml and summary.txt; None writes none.
        model_name: how the user named the model, for the report; default its directory.
    """

    device: str = "auto"
    dtype: str = "auto"
    fresh: bool = False
    report: Path | None = None
    model_name: str | None = None


def preflight(model: Path, recipe: Recipe, settings: Settings) -> tuple[Checkpoint, Plan]:
    """Opens the checkpoint, makes the plan and checks what every stage will need.

    Hours of pruning should not end in a missing package, file or token.

    Raises:
        SlimGPTError: as the stage would raise it.
    """
    resolve_device(settings.device)
    checkpoint = Checkpoint(model)
    require_loadable(checkpoint.meta)
    plan = prune_options_of(recipe, settings.device, settings.dtype, False).plan(checkpoint.shape)
    section = recipe.prune
    window_length(checkpoint.meta.context_length, section.samples, section.sequence_length)
    _check_recovery(recipe, settings, checkpoint.meta)
    if recipe.evaluate:
        check(model, model, inputs.texts(recipe), inputs.tasks(recipe), device=settings.device)
    if recipe.sign:
        from slimgpt.release.signing import require_private_key

        require_private_key(recipe.sign.key.path)
    if recipe.push:
        from slimgpt.release.push import require_pushable

        require_pushable(recipe.push.repository)
    return checkpoint, plan


def _check_recovery(recipe: Recipe, settings: Settings, meta: ConfigOnly) -> None:
    options = inputs.recover_options(recipe, settings.device, settings.dtype)
    if options is None:
        return
    from slimgpt.recover.adapter import require_peft

    require_peft()
    if meta.context_length and options.max_length > meta.context_length:
        raise UsageError(
            f"recover.max_length {options.max_length} is beyond the model's context of "
            f"{meta.context_length} tokens"
        )
