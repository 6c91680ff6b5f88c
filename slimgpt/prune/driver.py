"""From a checkpoint to a smaller one, one decoder layer in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import slimgpt
from slimgpt.calibration import Calibration
from slimgpt.checkpoint.digest import require_finite, source_digest
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.checkpoint.writer import write_durably
from slimgpt.destination import require_absent, require_apart, require_published
from slimgpt.loading import require_loadable
from slimgpt.planning import Plan
from slimgpt.progress import Progress, Silent, stage
from slimgpt.prune.activations import Activations, activation_bytes, embed, on_disk
from slimgpt.prune.choose import METHODS
from slimgpt.prune.finish import finish
from slimgpt.prune.forward import LayerForward, full_float32
from slimgpt.prune.journal import Journal
from slimgpt.prune.layer import LayerPruner
from slimgpt.prune.options import PruneOptions
from slimgpt.release.manifest import environment, parameters
from slimgpt.resources import peak_rss_bytes, require_disk, require_memory, resolve_device
from slimgpt.workspace import work_bytes

EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What a run did.

    Attributes:
        out: the pruned checkpoint.
        plan: shapes and ratios.
        seconds: wall time of this run (of the last part, if it resumed).
        peak_rss_bytes: most resident memory of this process.
        resumed_layers: layers that an earlier run had finished.
    """

    out: Path
    plan: Plan
    seconds: float
    peak_rss_bytes: int
    resumed_layers: int

    def to_json(self) -> dict[str, Any]:
        """The document of ``slimgpt prune --json``."""
        return {
            "out": str(self.out),
            "ratio": {"asked": self.plan.ratio, "achieved": self.plan.achieved},
            "parameters": parameters(self.plan),
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
            "resumed_layers": self.resumed_layers,
        }


def prune(
    model: Path,
    out: Path,
    options: PruneOptions,
    calibrate: Callable[[Checkpoint], Calibration],
    *,
    source_name: str | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Prunes a checkpoint directory into a new one.

    Args:
        model: the dense (or already pruned) checkpoint.
        out: must not exist; appears complete or not at all.
        options: what to remove and how.
        calibrate: gives the token windows, once the checkpoint has passed its checks; not called
            when nothing is to be removed.
        source_name: how the source is called in card and manifest; default its directory name.
        progress: watches.

    Raises:
        SlimGPTError: every expected failure, with its exit code; OUT is then untouched.
    """
    started = time.monotonic()
    progress = progress or Silent()
    require_absent(out)
    require_apart(model, out)
    checkpoint = Checkpoint(model)
    require_loadable(checkpoint.meta)
    plan = options.plan(checkpoint.shape)
    run = _Run(checkpoint, out, options, plan, source_name or model.resolve().name, progress)
    resumed = run.execute(calibrate)
    return PruneResult(out, plan, time.monotonic() - started, peak_rss_bytes(), resumed)


class _Run:
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
        self.method = METHODS[options.method]
        self.damping = self.method.damping if options.damping is None else options.damping
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
            require_published(self.out, fingerprint)
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
                source = {"name": self.source_name, "digest": digest}
                device = self.device.type
                finish(journal, self.checkpoint, self.plan, self.out, source, recipe, device)
                self.progress.advance()
            journal.remove()
        return done

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
        dtype = str(self.dtype).removeprefix("torch.")
        recipe = self.options.recipe(self.plan, self.damping, dtype)
        recipe["calibration"] = calibration.describe() if calibration else None
        return recipe

    def _outer(self, journal: Journal) -> None:
        if not journal.outer.exists():
            names = self.plan.source.outer_tensors()
            write_durably(journal.outer, {n: self.checkpoint.outer(n) for n in names}, {})

    def _copy_layers(self, journal: Journal, done: int) -> None:
        count = len(self.plan.source.layers)
        with stage(self.progress, "copying layers", count):
            for i in range(count):
                if i >= done:
                    journal.finish_layer(i, _named(i, self.checkpoint.layer(i)), {})
                self.progress.advance()

    def _prune_layers(self, journal: Journal, calibration: Calibration, done: int) -> None:
        count = len(self.plan.source.layers)
        with stage(self.progress, "pruning layers", count), full_float32():
            states = self._embed(calibration, journal)
            forward = LayerForward(
                self.checkpoint.meta.family,
                self.checkpoint.meta.config,
                calibration.windows.shape[1],
                self.device,
                self.dtype,
            )
            pruner = LayerPruner(
                forward,
                self.plan.source,
                self.plan.target,
                self.method,
                self.plan.kv_heads,
                self.damping,
            )
            for i in range(count):
                if i < done:
                    pruner.replay(i, _unnamed(i, journal.read_layer(i)), states)
                else:
                    self._prune_layer(i, pruner, journal, states)
                self.progress.advance()

    def _prune_layer(
        self, index: int, pruner: LayerPruner, journal: Journal, states: Activations
    ) -> None:
        started = time.monotonic()
        pruned = pruner.prune(index, self.checkpoint.layer(index), states)
        record = pruned.record()
        journal.finish_layer(index, _named(index, pruned.tensors), record)
        spent = {"seconds": time.monotonic() - started, "peak_rss_bytes": peak_rss_bytes()}
        self.progress.record("layer", {"layer": index, **record, **spent})

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


def _named(index: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"model.layers.{index}.{name}": tensor for name, tensor in tensors.items()}


def _unnamed(index: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = f"model.layers.{index}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
