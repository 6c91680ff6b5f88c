"""Quick recoveries of tiny models, and watchers that stop them or remember what they were told."""

from __future__ import annotations

import gc
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.progress import Progress, Silent
from slimgpt.recover.batches import mean_loss
from slimgpt.recover.data import load_training_data
from slimgpt.recover.driver import recover
from slimgpt.recover.options import RecoverOptions
from slimgpt.recover.result import RecoverResult
from slimgpt.recover.training import Training
from slimgpt.workspace import work_directory
from tests.tiny_models import LENGTH, Tiny, write_rows

QUICK = RecoverOptions(
    batch_size=8,
    micro_batch=4,
    max_length=LENGTH,
    held_out=8,
    evaluations=2,
    max_steps=4,
    learning_rate=1e-2,
    warmup_steps=1,
    device="cpu",
)


def run(
    model: Path, out: Path, rows: Path, options: RecoverOptions = QUICK, **more: Any
) -> RecoverResult:
    """A recovery."""
    return recover(model, out, [str(rows)], options, **more)


def training(
    model: Path, directory: Path, rows: Path, progress: Progress | None = None, **options: Any
) -> Training:
    """A training by itself, without what comes before and after."""
    settings = replace(QUICK, dtype="float32", **options)
    data = load_training_data(Checkpoint(model).meta, [str(rows)], settings)
    return Training(model, None, directory, data, settings, progress or Silent())


def held_out_loss(model: Path, rows: Path) -> float:
    """As every user would measure it: the model loaded by transformers alone."""
    data = load_training_data(Checkpoint(model).meta, [str(rows)], QUICK)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    return mean_loss(loaded, data.held_out)


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@contextmanager
def quick_collections() -> Iterator[None]:
    """transformers collects garbage in every training; what pytest holds is none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# -- watchers -------------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for the end of the process."""


class StopAt(Silent):
    """Stops when the held-out loss of a step is known, before its checkpoint is written."""

    def __init__(self, step: int) -> None:
        self._step = step

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "held-out" and fields["step"] == self._step:
            raise Stopped


class StopBeforePublishing(Silent):
    """Stops when everything is proved and nothing is out."""

    def start(self, stage: str, total: int) -> None:
        if stage == "writing checkpoint":
            raise Stopped


class Stages(Silent):
    """Remembers which stages began after the check that comes first."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def start(self, stage: str, total: int) -> None:
        if stage != "checking weights":
            self.begun.append(stage)


class Looks(Silent):
    """Remembers the held-out loss at each step where it was measured."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "held-out":
            assert fields["step"] not in self.losses
            self.losses[fields["step"]] = fields["loss"]


# -- one recovery, run again and again ------------------------------------------------------------


class Recovery:
    """One recovery, to be stopped, gone on with, and compared with an undisturbed one.

    It has 27 examples to train on, which are 4 steps an epoch: its checkpoints, at steps 2, 4 and
    6, fall into an epoch and on its end.

    Attributes:
        model: the pruned checkpoint.
        rows: what it is trained on.
    """

    ROWS, STEPS, LOOKS = 30, 6, (2, 4, 6)

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.model = tiny.pruned(tiny.dense("llama-mha").path)
        self.rows = write_rows(folder / "rows.jsonl", self.ROWS)
        self._folder = folder

    def run(
        self,
        out: Path,
        *,
        source: Path | None = None,
        data: Path | None = None,
        progress: Progress | None = None,
        dense: Path | None = None,
        **options: Any,
    ) -> RecoverResult:
        """Begins, or goes on; with other options where they are given."""
        usual = {"evaluations": len(self.LOOKS), "max_steps": self.STEPS}
        return run(
            source or self.model,
            out,
            data or self.rows,
            replace(QUICK, **(usual | options)),
            dense=dense,
            progress=progress,
        )

    @cached_property
    def undisturbed(self) -> dict[str, str]:
        """Digests of what comes out when nothing happens."""
        self.run(self._folder / "undisturbed")
        return digests(self._folder / "undisturbed")

    def stop(self, out: Path, progress: Progress) -> None:
        """Runs until the watcher stops it."""
        with pytest.raises(Stopped):
            self.run(out, progress=progress)
        assert not out.exists()

    @cached_property
    def _trained(self) -> Path:
        out = self._folder / "trained"
        self.stop(out, StopBeforePublishing())
        return work_directory(out)

    def copy_trained(self, out: Path) -> None:
        """The work of a run that was stopped before it published."""
        shutil.copytree(self._trained, work_directory(out))


def checkpoints(out: Path) -> list[Path]:
    """Of the training of an unfinished run."""
    return sorted((work_directory(out) / "training").glob("checkpoint-*"))
