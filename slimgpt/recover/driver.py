"""From a pruned checkpoint to a recovered one in the same format: train, merge, prove, publish."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slimgpt
from slimgpt.checkpoint.digest import require_finite, source_digest
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.checkpoint.writer import publish
from slimgpt.destination import require_absent, require_apart, require_published
from slimgpt.errors import EnvironmentProblem, GateMissed, UsageError
from slimgpt.loading import load_model, require_loadable, require_stock_code
from slimgpt.progress import Progress, Silent, stage
from slimgpt.prune.finish import gather
from slimgpt.prune.journal import Journal
from slimgpt.recover.adapter import require_peft
from slimgpt.recover.data import TrainingData, load_training_data
from slimgpt.recover.merge import (
    CHECKED_EXAMPLES,
    MergeCheck,
    compare,
    exactly_merged_logits,
    logits_of,
    merge,
)
from slimgpt.recover.options import RecoverOptions
from slimgpt.recover.result import RecoverResult, quality
from slimgpt.recover.training import Trained, Training
from slimgpt.release.card.card import CardFacts, write_card
from slimgpt.release.lineage import read_lineage
from slimgpt.release.manifest import describe, environment, read_manifest, seal
from slimgpt.resources import peak_rss_bytes, require_disk, resolve_device
from slimgpt.workspace import work_bytes

if TYPE_CHECKING:
    from torch import Tensor


def recover(
    model: Path,
    out: Path,
    data: Sequence[str],
    options: RecoverOptions,
    *,
    dense: Path | None = None,
    source_name: str | None = None,
    progress: Progress | None = None,
) -> RecoverResult:
    """Trains low-rank updates on a checkpoint and publishes the merged weights.

    Args:
        model: a pruned (or any other supported) checkpoint.
        out: must not exist; appears complete or not at all.
        data: files or names of hub sets.
        options: how.
        dense: the model to distil from; goes with ``options.distill_weight``.
        source_name: how MODEL is called where it has no manifest; default its directory name.
        progress: watches.

    Raises:
        GateMissed: the held-out loss did not fall; nothing is published.
        SlimGPTError: every other expected failure; OUT is then untouched.
    """
    started = time.monotonic()
    require_peft()
    if (options.distill_weight > 0) != (dense is not None):
        raise UsageError("--distill DENSE and a --distill-weight above 0 go together: give both")
    require_absent(out)
    checkpoint = _open(model, out)
    teacher = _open(dense, out) if dense else None
    if teacher and teacher.shape.vocab_size != checkpoint.shape.vocab_size:
        raise UsageError(
            f"--distill {dense} has a vocabulary of {teacher.shape.vocab_size}, {model} one of "
            f"{checkpoint.shape.vocab_size}: distillation needs the same"
        )
    options = replace(options, dtype=_training_dtype(options, checkpoint.meta.dtype))
    examples = load_training_data(checkpoint.meta, data, options)
    name = source_name or model.resolve().name
    run = _Run(checkpoint, teacher, out, examples, options, name, progress or Silent())
    measured = run.execute()
    seconds = time.monotonic() - started
    return RecoverResult(out, measured, examples.describe(), seconds, peak_rss_bytes())


def _open(model: Path, out: Path) -> Checkpoint:
    require_apart(model, out)
    checkpoint = Checkpoint(model)
    require_loadable(checkpoint.meta)
    require_stock_code(checkpoint.meta)
    return checkpoint


def _training_dtype(options: RecoverOptions, stored: str) -> str:
    """``--dtype`` without ``auto``; float16 has too little range for gradients.

    Raises:
        EnvironmentProblem: another GPU than the first was asked for.
    """
    device = resolve_device(options.device)
    if device.index:
        raise EnvironmentProblem(
            f"--device {options.device}: training runs on the first GPU it sees; set "
            f"CUDA_VISIBLE_DEVICES={device.index} and give --device cuda"
        )
    if options.dtype != "auto":
        return options.dtype
    return "float32" if device.type == "cpu" or stored == "float32" else "bfloat16"


class _Run:
    """One run: everything that is known before the first step."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        teacher: Checkpoint | None,
        out: Path,
        data: TrainingData,
        options: RecoverOptions,
        name: str,
        progress: Progress,
    ) -> None:
        self.checkpoint, self.teacher, self.out = checkpoint, teacher, out
        self.data, self.options, self.progress = data, options, progress
        for source in filter(None, (checkpoint, teacher)):
            self._check_weights(source)
        digest = source_digest(checkpoint)
        self.lineage = read_lineage(checkpoint, name, digest)
        self.recipe = dict(self.lineage.recipe) | {"recovery": self._recovery(digest)}

    def execute(self) -> Mapping[str, Any]:
        """Runs to the end and returns the ``quality.recovery`` entry of the manifest."""
        twice = 2 * self.checkpoint.shape.weight_bytes(self.checkpoint.meta.bytes_per_value)
        require_disk(self.out.parent, twice - work_bytes(self.out), "the recovered checkpoint")
        fingerprint = {
            "recipe": self.recipe,
            "source": self.lineage.source["digest"],
            "environment": environment(resolve_device(self.options.device).type),
            "slimgpt_version": slimgpt.__version__,
        }
        if self.out.exists():
            require_published(self.out, fingerprint)
        journal = Journal(self.out)
        with closing(journal):
            journal.open(fingerprint, fresh=self.options.fresh)
            if not self.out.exists():  # else killed after publishing: only the clean-up was left
                self._make(journal)
            journal.remove()
        manifest = read_manifest(self.out) or {}
        measured: Mapping[str, Any] = manifest["quality"]["recovery"]
        return measured

    def _check_weights(self, source: Checkpoint) -> None:
        total = sum(path.stat().st_size for path in source.files)
        with stage(self.progress, "checking weights", total):
            require_finite(source, self.progress.advance)

    def _make(self, journal: Journal) -> None:
        training = Training(
            self.checkpoint.directory,
            self.teacher.directory if self.teacher else None,
            journal.directory / "training",
            self.data,
            self.options,
            self.progress,
        )
        trained = training.run()
        adapter, exact = self._merge(journal, training)
        staging, stock = gather(journal, self.checkpoint, self.checkpoint.shape)
        loss, check = self._prove(staging, trained, adapter, exact)
        self._publish(staging, stock, quality(trained, loss, check))

    def _merge(self, journal: Journal, training: Training) -> tuple[Tensor, Tensor]:
        """Writes the merged blocks; logits with the updates beside the weights, and in them."""
        with stage(self.progress, "merging", len(self.checkpoint.shape.layers)):
            adapted = training.adapted()
            merge(self.checkpoint, adapted, journal, self.progress)
            checked = self.data.held_out[:CHECKED_EXAMPLES]
            return logits_of(adapted, checked), exactly_merged_logits(adapted, checked)

    def _prove(
        self, staging: Path, trained: Trained, adapter: Tensor, exact: Tensor
    ) -> tuple[float, MergeCheck]:
        """Loads what is to be published, as a user will, and holds it to what was trained."""
        from slimgpt.recover.batches import mean_loss

        merged, meta = load_model(staging, device=self.options.device, dtype=self.options.dtype)
        checked = self.data.held_out[:CHECKED_EXAMPLES]
        stored = logits_of(merged, checked)
        check = compare(adapter, exact, stored, meta.dtype, self.options.dtype)
        with stage(self.progress, "checking the merged model", len(self.data.held_out)):
            loss = mean_loss(merged, self.data.held_out, self.progress)
        if not loss < trained.before:
            raise GateMissed(
                f"merged and stored as {meta.dtype}, the recovered weights have a held-out loss of "
                f"{loss:.4f} nats a token, {trained.before:.4f} before: nothing is written; train "
                "longer or with a higher --learning-rate, and give --fresh",
                measured=loss,
                limit=trained.before,
            )
        return loss, check

    def _publish(self, staging: Path, stock: bool, measured: dict[str, Any]) -> None:
        with stage(self.progress, "writing checkpoint", 1):
            lineage, shape = self.lineage, self.checkpoint.shape
            manifest = describe(
                source=lineage.source,
                recipe=self.recipe,
                shape=shape,
                counts=lineage.counts,
                quality=dict(lineage.quality) | {"recovery": measured},
                device=resolve_device(self.options.device).type,
            )
            facts = CardFacts(manifest, shape, None, self.checkpoint.directory, stock)
            write_card(staging, facts)
            seal(staging, manifest)
            publish(staging, self.out)
            self.progress.advance()

    def _recovery(self, digest: str) -> dict[str, Any]:
        """The ``recipe.recovery`` entry: settings, data and the checkpoint that was trained."""
        entry = self.options.recipe() | {
            "data": self.data.describe(),
            "model_digest": digest,
            "peft": version("peft"),
        }
        if self.teacher:
            entry["distilled_from"] = source_digest(self.teacher)
        return entry
