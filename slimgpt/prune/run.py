"""What every run of pruning does: checks, a work directory, and blocks that become a checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

import slimgpt
from slimgpt.calibration import Calibration
from slimgpt.checkpoint.digest import require_finite, source_digest
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.checkpoint.writer import write_durably
from slimgpt.destination import require_published
from slimgpt.planning import Plan
from slimgpt.progress import Progress, stage
from slimgpt.prune.activations import Activations, activation_bytes, embed, on_disk
from slimgpt.prune.journal import Journal
from slimgpt.prune.options import PruneOptions
from slimgpt.release.manifest import environment
from slimgpt.resources import require_disk, require_memory, resolve_device
from slimgpt.workspace import work_bytes

EMBEDDING = "model.embed_tokens.weight"


class Run(ABC):
    """One run: everything that is known before the first layer."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        out: Path,
        options: PruneOptions,
        plan: Plan,
        source_name: str,
        progress: Progress,
    ) -> None:
        self.checkpoint, self.out, self.plan = checkpoint, out, plan
        self.options, self.source_name, self.progress = options, source_name, progress
        self.device = resolve_device(options.device)
        self.dtype = _compute_dtype(options.dtype, checkpoint.meta.dtype, self.device)
        self.removes = plan.target != plan.source

    def execute(self, calibrate: Callable[[Checkpoint], Calibration]) -> int:
        """Runs to the end and returns how many layers were finished before."""
        self._require_room(0)
        calibration = calibrate(self.checkpoint) if self.removes else None
        if calibration is not None:
            self._require_room(self._activation_bytes(calibration))
        digest = self._check_source()
        recipe = self._recipe(calibration)
        fingerprint = {
            "recipe": recipe,
            "source": digest,
            "environment": environment(self.device.type),
            "slimgpt_version": slimgpt.__version__,
        }
        if self.out.exists():
            self._require_own(fingerprint)
        journal = Journal(self.out)
        with closing(journal):
            done = journal.open(fingerprint, fresh=self.options.fresh)
            if self.out.exists():
                journal.remove()  # killed after publishing: only the clean-up was left
                return done
            self._outer(journal)
            if calibration is not None:
                self._prune_layers(journal, calibration, done)
            else:
                self._copy_layers(journal, done)
            with stage(self.progress, "writing checkpoint", 1):
                self._finish(journal, {"name": self.source_name, "digest": digest}, recipe)
                self.progress.advance()
            journal.remove()
        return done

    def _require_own(self, fingerprint: Mapping[str, Any]) -> None:
        """Passes if OUT is what this very run had published."""
        require_published(self.out, fingerprint)

    def _require_room(self, activations: int) -> None:
        """Disk for the result, twice while it is put together, and a place for activations."""
        result = 2 * self.plan.target.weight_bytes(self.checkpoint.meta.bytes_per_value)
        result -= work_bytes(self.out)
        if on_disk(self.options.activations, activations):
            what = "the pruned checkpoint with its calibration activations"
            require_disk(self.out.parent, result + activations, what)
        else:
            require_disk(self.out.parent, result, "the pruned checkpoint")
            require_memory(activations, "--activations memory")

    def _activation_bytes(self, calibration: Calibration) -> int:
        samples, tokens = calibration.windows.shape
        return activation_bytes(samples, tokens, self.plan.source.hidden_size, self.dtype)

    def _check_source(self) -> str:
        total = sum(path.stat().st_size for path in self.checkpoint.files)
        with stage(self.progress, "checking weights", total):
            require_finite(self.checkpoint, self.progress.advance)
        return source_digest(self.checkpoint)

    def _recipe(self, calibration: Calibration | None) -> dict[str, Any]:
        recipe = self._choices(str(self.dtype).removeprefix("torch."))
        recipe["calibration"] = calibration.describe() if calibration else None
        return recipe

    @abstractmethod
    def _choices(self, dtype: str) -> dict[str, Any]:
        """The ``recipe`` entry of the manifest but for the calibration."""

    @abstractmethod
    def _prune_layers(self, journal: Journal, calibration: Calibration, done: int) -> None:
        """Writes every block of the result but the outer one, from number ``done`` on."""

    @abstractmethod
    def _finish(self, journal: Journal, source: Mapping[str, Any], recipe: dict[str, Any]) -> None:
        """Publishes the blocks."""

    def _outer(self, journal: Journal) -> None:
        if not journal.outer.exists():
            names = self.plan.source.outer_tensors()
            write_durably(journal.outer, {n: self.checkpoint.outer(n) for n in names}, {})

    def _copy_layers(self, journal: Journal, done: int) -> None:
        count = len(self.plan.source.layers)
        with stage(self.progress, "copying layers", count):
            for i in range(count):
                if i >= done:
                    journal.finish_layer(i, named(i, self.checkpoint.layer(i)), {})
                self.progress.advance()

    def _embed(self, calibration: Calibration, journal: Journal) -> Activations:
        windows = calibration.windows
        mapped = on_disk(self.options.activations, self._activation_bytes(calibration))
        file = journal.directory / "activations" if mapped else None
        embedding = self.checkpoint.outer(EMBEDDING)
        return embed(windows, embedding, self.dtype, self.device, file)


def _compute_dtype(asked: str, stored: str, device: torch.device) -> torch.dtype:
    name = asked
    if asked == "auto":
        name = "float32" if device.type == "cpu" else stored
    return getattr(torch, name)  # type: ignore[no-any-return]


def named(index: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a layer under their names in a checkpoint."""
    return {f"model.layers.{index}.{name}": tensor for name, tensor in tensors.items()}


def unnamed(index: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The way back."""
    prefix = f"model.layers.{index}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
