"""One training: from a pruned model to the updates that lowered the held-out loss most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.safety import read_json
from slimgpt.checkpoint.writer import write_text_durably
from slimgpt.errors import GateMissed, IntegrityError
from slimgpt.loading import load_model
from slimgpt.progress import Progress, stage
from slimgpt.recover.adapter import load_adapter, read_record, save_adapter, with_adapter
from slimgpt.recover.data import TrainingData
from slimgpt.recover.options import RecoverOptions

_BEST, _BEFORE, _DONE = "best.safetensors", "before.json", "trained.json"


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training went; losses are nats a scored held-out token.

    Attributes:
        before: held-out loss of the pruned model.
        after: held-out loss of the best step, with its updates beside the weights.
        best_step: the optimiser step that was kept.
        steps: optimiser steps in all.
    """

    before: float
    after: float
    best_step: int
    steps: int


class Training:
    """Trains in a work directory; every part of it can be killed and taken up again."""

    def __init__(
        self,
        model: Path,
        dense: Path | None,
        directory: Path,
        data: TrainingData,
        options: RecoverOptions,
        progress: Progress,
    ) -> None:
        """Prepares a training.

        Args:
            model: the pruned checkpoint.
            dense: the model to distil from, or None.
            directory: for what is to survive a kill.
            data: examples.
            options: of the recovery.
            progress: watches.
        """
        self._model, self._dense, self._directory = model, dense, directory
        self._data, self._options, self._progress = data, options, progress

    @property
    def best(self) -> Path:
        """File of the updates that were kept."""
        return self._directory / _BEST

    def run(self) -> Trained:
        """Trains to the end, or goes on where a killed training was.

        Raises:
            GateMissed: no step lowered the held-out loss, or the training diverged.
            IntegrityError: the work directory is damaged.
        """
        self._directory.mkdir(exist_ok=True)
        done = self._directory / _DONE
        trained = _trained(done) if done.exists() else self._train()
        if not trained.after < trained.before:
            raise GateMissed(
                f"recovery made the held-out loss no better ({trained.before:.4f} nats a token "
                f"before, {trained.after:.4f} at its best): nothing is written; give a lower "
                "--learning-rate, or other or more --data, and --fresh",
                measured=trained.after,
                limit=trained.before,
            )
        return trained

    def adapted(self) -> Any:
        """The model with the kept updates beside its weights, in evaluation mode."""
        adapted = with_adapter(self._load(), self._options)
        load_adapter(adapted, self.best)
        return adapted.eval()

    def _load(self) -> Any:
        return load_model(self._model, device=self._options.device, dtype=self._options.dtype)[0]

    def _train(self) -> Trained:
        """Makes the steps that no whole checkpoint has."""
        from slimgpt.recover.checkpoints import last_whole

        steps = self._options.steps(len(self._data.train))
        done, checkpoint = last_whole(self._directory)
        if done < steps:
            self._go_on(checkpoint, done, steps)
        before = _read(self._directory / _BEFORE, ("held_out_loss",))["held_out_loss"]
        best = read_record(self.best)
        trained = Trained(before, best["held_out_loss"], best["step"], steps)
        write_text_durably(self._directory / _DONE, json.dumps(asdict(trained)))
        return trained

    def _go_on(self, checkpoint: Path | None, done: int, steps: int) -> None:
        from slimgpt.recover.surroundings import one_process, repeatable
        from slimgpt.recover.trainer import LoraTrainer, Watch, arguments

        options, progress = self._options, self._progress
        model = with_adapter(self._load(), options)
        self._look_before(model)
        teacher = self._teacher()
        watch = Watch(steps, options.evaluations, lambda step: self._look(model, step), progress)
        device = model.device
        with stage(progress, "recovering", steps), one_process(), repeatable(device):
            if done:
                progress.advance(done)
            settings = arguments(options, self._directory, device, steps)
            trainer = LoraTrainer(model, settings, self._data.train, options, teacher, [watch])
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _look_before(self, model: Any) -> None:
        """Scores the held-out examples by the pruned model itself: the updates begin as zero."""
        from slimgpt.recover.batches import mean_loss

        path = self._directory / _BEFORE
        if path.exists():
            return
        with stage(self._progress, "held-out loss", len(self._data.held_out)):
            loss = mean_loss(model, self._data.held_out, self._progress)
        if not isfinite(loss):
            raise IntegrityError(
                f"the held-out loss of {self._model} is no number: check the model with slimgpt "
                "evaluate, or give --dtype float32"
            )
        write_text_durably(path, json.dumps({"held_out_loss": loss}))

    def _look(self, model: Any, step: int) -> None:
        """Scores the held-out examples and keeps the updates if they are the best so far."""
        from slimgpt.recover.batches import mean_loss
        from slimgpt.recover.trainer import diverged

        loss = mean_loss(model, self._data.held_out)
        if not isfinite(loss):
            raise diverged("held-out loss")
        self._progress.record("held-out", {"step": step, "loss": loss})
        best = read_record(self.best)["held_out_loss"] if self.best.exists() else None
        if best is None or loss < best:
            save_adapter(model, self.best, {"step": step, "held_out_loss": loss})

    def _teacher(self) -> Any | None:
        if self._dense is None:
            return None
        return load_model(self._dense, device=self._options.device, dtype=self._options.dtype)[0]


def _trained(path: Path) -> Trained:
    return Trained(**_read(path, [field.name for field in fields(Trained)]))


def _read(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Numbers that an earlier run wrote, under these names.

    Raises:
        IntegrityError: the file was damaged since.
    """
    try:
        values = read_json(path)
        if values.keys() == set(keys) and all(type(v) in (int, float) for v in values.values()):
            return values
    except IntegrityError:
        pass
    raise IntegrityError(f"{path} is damaged: start again with --fresh")
