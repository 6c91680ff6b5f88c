"""A job: everything that is known before its first stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.compress.settings import Settings
from slimgpt.planning import Plan
from slimgpt.progress import Part, Progress
from slimgpt.release.recipe.recipe import Recipe
from slimgpt.release.recipe.sections import Export


@dataclass(frozen=True, slots=True)
class Job:
    """What to do, with what and where to.

    Attributes:
        checkpoint: the dense one.
        out: where the release goes.
        recipe: what to do.
        settings: where and how to compute.
        plan: shapes and ratios.
        source_name: how the source is called in card and manifest.
        progress: watches.
    """

    checkpoint: Checkpoint
    out: Path
    recipe: Recipe
    settings: Settings
    plan: Plan
    source_name: str
    progress: Progress

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of its stages, in order."""
        optional = {
            "recover": self.recipe.recover,
            "evaluate": self.recipe.evaluate,
            "speed": self.recipe.gates.speedup if self.recipe.gates else None,
            "push": self.recipe.push,
        }
        exports = (export_stage(export) for export in self.recipe.exports if export.out)
        names = ("source", "prune", "recover", "evaluate", "speed", "release", *exports, "push")
        return tuple(name for name in names if optional.get(name, True))

    def part(self, stage: str) -> Progress:
        """What a stage tells its progress."""
        return Part(self.progress, stage, self.stages.index(stage) + 1, len(self.stages))


def export_stage(export: Export) -> str:
    """Name of the stage that makes an export with a directory of its own."""
    assert export.out
    return f"export {export.out.label}"
