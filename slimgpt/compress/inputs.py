"""From the sections of a recipe to what each stage takes, and digests of the files they name."""

from __future__ import annotations

from collections.abc import Iterable

from slimgpt.calibration import HUB_SETS
from slimgpt.checkpoint.digest import file_sha256
from slimgpt.compress.settings import Settings
from slimgpt.evaluate.judge import TaskOptions, TextSpec
from slimgpt.recover.options import RecoverOptions
from slimgpt.release.recipe.file_name import FileName
from slimgpt.release.recipe.recipe import Recipe
from slimgpt.release.recipe.sections import Recover


def recover_options(section: Recover, seed: int, settings: Settings) -> RecoverOptions:
    """The ``recover`` section as the driver of recovery takes it."""
    values = section.model_dump(exclude={"data"})
    return RecoverOptions(**values, seed=seed, device=settings.device, dtype=settings.dtype)


def is_hub_set(name: FileName) -> bool:
    """Whether this is a data set that would be fetched."""
    return name.source in HUB_SETS and not name.path.exists()


def texts(recipe: Recipe) -> list[TextSpec]:
    """The texts of the ``evaluate`` section."""
    if recipe.evaluate is None:
        return []
    return [
        TextSpec(t.file.path, t.window, t.protocol, t.file.label) for t in recipe.evaluate.texts
    ]


def tasks(recipe: Recipe) -> TaskOptions | None:
    """The tasks of the ``evaluate`` section; None where it names none."""
    section = recipe.evaluate
    if section is None or not section.tasks:
        return None
    return TaskOptions(
        names=tuple(t.source for t in section.tasks),
        task_data=section.task_data.path if section.task_data else None,
        num_fewshot=section.num_fewshot,
        limit=section.limit,
        batch_size=section.batch_size,
    )


def confidence(recipe: Recipe) -> float:
    """Of the accuracy bounds: the gate's, so that what is measured is what is judged."""
    accuracy = recipe.gates.accuracy if recipe.gates else None
    return accuracy.confidence if accuracy else 0.95


def training_files(recipe: Recipe) -> list[tuple[str, str]]:
    """Names, as published, and SHA-256 of the local files that calibration and recovery read.

    A set of the hub has no digest: its name in the recipe stands for it.
    """
    return _digests([*recipe.prune.calibration, *(recipe.recover.data if recipe.recover else ())])


def evaluation_files(recipe: Recipe) -> list[tuple[str, str]]:
    """The same for what evaluation reads."""
    section = recipe.evaluate
    if section is None:
        return []
    digests = _digests([*(t.file for t in section.texts), *section.tasks])
    if section.task_data:
        folder = section.task_data.path
        files = sorted(p for p in folder.iterdir() if p.is_file() and ".json" in p.name)
        digests += [(p.name, file_sha256(p)) for p in files]
    return digests


def seen_before(recipe: Recipe) -> list[str]:
    """Files that are measured and were calibrated or trained on: gates on them say little."""
    learned = {digest for _, digest in training_files(recipe)}
    return [name for name, digest in evaluation_files(recipe) if digest in learned]


def _digests(named: Iterable[FileName]) -> list[tuple[str, str]]:
    return [(f.label, file_sha256(f.path)) for f in named if f.path.is_file()]
