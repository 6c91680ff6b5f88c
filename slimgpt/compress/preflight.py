"""What can be found wrong with a job before its first weight is read."""

from __future__ import annotations

from pathlib import Path

from slimgpt.calibration import SELF, window_length
from slimgpt.checkpoint.reader import Checkpoint, ConfigOnly
from slimgpt.compress import inputs
from slimgpt.compress.exports import check_exports
from slimgpt.compress.recipe_terms import in_recipe_terms
from slimgpt.compress.report import require_report_directory
from slimgpt.compress.settings import Settings
from slimgpt.compress.speed import check_speed
from slimgpt.destination import exists, require_absent, require_apart
from slimgpt.errors import UsageError
from slimgpt.evaluate.judge import check
from slimgpt.loading import require_loadable, require_stock_code
from slimgpt.planning import Plan
from slimgpt.release.recipe.recipe import Recipe, prune_options_of
from slimgpt.resources import resolve_device


def preflight(
    model: Path, out: Path, recipe: Recipe, settings: Settings
) -> tuple[Checkpoint, Plan]:
    """Opens the checkpoint, makes the plan and checks what every stage will need.

    Hours of pruning should not end in a missing package, file or token.

    Raises:
        SlimGPTError: as the stage would raise it, in the terms of the recipe.
    """
    _check_places(model, out, settings)
    resolve_device(settings.device)
    checkpoint = Checkpoint(model)
    require_loadable(checkpoint.meta)
    if _runs_dense(recipe):
        require_stock_code(checkpoint.meta)
    plan = _plan(recipe, settings, checkpoint)
    _check_recovery(recipe, checkpoint.meta)
    if recipe.evaluate:
        with in_recipe_terms("evaluate"):
            check(model, model, inputs.texts(recipe), inputs.tasks(recipe), device=settings.device)
    check_speed(recipe, checkpoint, settings)
    check_exports(recipe, checkpoint, plan, settings, model, out)
    if recipe.sign:
        from slimgpt.release.signing import require_private_key

        require_private_key(recipe.sign.key.path)
    if recipe.push:
        from slimgpt.release.push import require_pushable

        require_pushable(recipe.push.repository)
    return checkpoint, plan


def _runs_dense(recipe: Recipe) -> bool:
    """Whether a stage needs the predictions of the dense model itself."""
    distills = recipe.recover is not None and recipe.recover.distill_weight > 0
    samples = any(f.source == SELF for f in recipe.prune.calibration)
    timed = recipe.gates is not None and recipe.gates.speedup is not None
    return recipe.evaluate is not None or distills or samples or timed


def _check_places(model: Path, out: Path, settings: Settings) -> None:
    require_absent(out)
    require_apart(model, out)
    if settings.fresh and out.exists():  # published, and to be ended without --fresh
        raise exists(out)
    if settings.report:
        require_report_directory(settings.report, model, out)


def _plan(recipe: Recipe, settings: Settings, checkpoint: Checkpoint) -> Plan:
    section = recipe.prune
    with in_recipe_terms("prune"):
        options = prune_options_of(recipe, settings.device, settings.dtype, False)
        window_length(checkpoint.meta.context_length, section.samples, section.sequence_length)
        return options.plan(checkpoint.shape)


def _check_recovery(recipe: Recipe, meta: ConfigOnly) -> None:
    section = recipe.recover
    if section is None:
        return
    from slimgpt.recover.adapter import require_peft

    require_peft()
    if meta.context_length and section.max_length > meta.context_length:
        raise UsageError(
            f"recover.max_length {section.max_length} is beyond the model's context of "
            f"{meta.context_length} tokens"
        )
