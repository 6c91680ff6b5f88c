"""A third model, of whole layers: as many dropped as come nearest to the pruned model's size."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.calibration import SELF, Calibration, load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.progress import Progress
from slimgpt.prune.driver import prune
from slimgpt.prune.options import DEPTH, PruneOptions
from slimgpt.release.manifest import read_manifest
from slimgpt.resources import human_bytes
from slimgpt.shape import ModelShape
from slimgpt_bench.artefact import Artefact

_SAMPLES, _TOKENS = 16, 128


@dataclass(frozen=True, slots=True)
class ByDepth:
    """How the third model was made.

    Attributes:
        directory: of it.
        dropped_layers: numbers of the dense model's layers.
        decoder_parameters: of it.
        wanted: decoder parameters of the pruned model.
    """

    directory: Path
    dropped_layers: tuple[int, ...]
    decoder_parameters: int
    wanted: int

    def to_json(self) -> dict[str, Any]:
        return {
            "method": "whole layers of least block influence (arXiv 2403.03853)",
            "dropped_layers": list(self.dropped_layers),
            "decoder_parameters": self.decoder_parameters,
            "decoder_parameters_of_pruned": self.wanted,
        }


def layers_to_drop(dense: ModelShape, pruned: ModelShape) -> int:
    """How many layers come nearest to what pruning removed.

    Raises:
        UsageError: less than half a layer was removed, or layers of the dense model differ.
    """
    if len(set(dense.layers)) > 1:
        raise UsageError(
            "--depth drops whole layers of a DENSE whose layers all have the same widths, and "
            "those of this one differ: give the third model by --third"
        )
    count = len(dense.layers)
    one = dense.decoder_parameters / count
    dropped = round((dense.decoder_parameters - pruned.decoder_parameters) / one)
    if not 1 <= dropped < count:
        raise UsageError(
            f"--depth: OUT is {dense.decoder_parameters - pruned.decoder_parameters:,} decoder "
            f"parameters smaller than DENSE, of which a layer has {one:,.0f}: there is no model of "
            "fewer whole layers near its size; leave --depth out"
        )
    return dropped


def _require_room(dense: Artefact, dropped: int, work: Path) -> None:
    """Refuses a folder that can't hold the model, twice while it is put together.

    Raises:
        EnvironmentProblem: naming what moves it.
    """
    made = dense.shape.with_layers(dense.shape.layers[dropped:])
    needed = round(2 * dense.weight_bytes * made.parameters / dense.shape.parameters)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise EnvironmentProblem(
            f"--depth makes a model in {work.parent}, which needs {human_bytes(needed)} of disk, "
            f"and {human_bytes(free)} are free: set TMPDIR to a folder of another disk"
        )


def make_by_depth(
    dense: Artefact, pruned: Artefact, work: Path, *, device: str, seed: int, progress: Progress
) -> ByDepth:
    """Makes the third model from the dense one.

    Speed does not depend on which layers go, so the calibration is small, and needs no file: texts
    that the model makes up itself.

    Args:
        dense: a checkpoint.
        pruned: whose size is to be met.
        work: directory to make it in.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        seed: of those texts.
        progress: watches.
    """
    if dense.form != "checkpoint":
        raise UsageError(
            "--depth needs checkpoints, and DENSE is an ONNX export: make the third one with "
            "slimgpt prune --method depth and slimgpt export onnx, and give it by --third"
        )
    dropped = layers_to_drop(dense.shape, pruned.shape)
    _require_room(dense, dropped, work)
    out = work / "by-depth"
    options = PruneOptions(dropped / len(dense.shape.layers), DEPTH, device=device)

    def calibrate(checkpoint: Checkpoint) -> Calibration:
        length = min(_TOKENS, checkpoint.meta.context_length or _TOKENS)
        return load_calibration(
            checkpoint,
            [SELF],
            samples=_SAMPLES,
            sequence_length=length,
            seed=seed,
            device=device,
            progress=progress,
        )

    result = prune(dense.directory, out, options, calibrate, progress=progress)
    recipe = (read_manifest(out) or {})["recipe"]
    return ByDepth(
        out,
        tuple(recipe["dropped_layers"]),
        result.plan.target.decoder_parameters,
        pruned.shape.decoder_parameters,
    )
