"""A run that removes whole layers: what a sceptic compares every pruned width with.

Layers go by their block influence (ShortGPT, arXiv 2403.03853): one minus the mean cosine between
the hidden state of a token before and after the layer. The dense model runs once over the
calibration text, one layer in memory at a time; the layers that turn its states the least go, and
the others stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from slimgpt.calibration import Calibration
from slimgpt.checkpoint.safety import read_json
from slimgpt.checkpoint.writer import write_text_durably
from slimgpt.destination import require_published
from slimgpt.errors import IntegrityError
from slimgpt.progress import stage
from slimgpt.prune.activations import Activations
from slimgpt.prune.finish import finish
from slimgpt.prune.forward import Layer, LayerForward, full_float32
from slimgpt.prune.journal import Journal
from slimgpt.prune.options import DEPTH
from slimgpt.prune.run import Run, named
from slimgpt.release.manifest import read_manifest, rounded

DROPPED = "dropped_layers"
"""Entry of the manifest's recipe: numbers of the source's layers that went."""
INFLUENCE = "influence"
"""Entry of the manifest's quality: of every layer of the source."""
_RECORD = "influence.json"


class DepthRun(Run):
    """Drops the layers of least influence."""

    def _choices(self, dtype: str) -> dict[str, Any]:
        return {"ratio": self.options.ratio, "method": DEPTH, "dtype": dtype}

    def _prune_layers(self, journal: Journal, calibration: Calibration, done: int) -> None:
        kept = self._kept(self._influence(journal, calibration))
        with stage(self.progress, "copying layers", len(kept)):
            for place, index in enumerate(kept):
                if place >= done:
                    tensors = named(place, self.checkpoint.layer(index))
                    journal.finish_layer(place, tensors, {"source_layer": index})
                self.progress.advance()

    def _kept(self, influence: list[float]) -> list[int]:
        # By the digits that the manifest has: the others depend on the number of threads.
        return kept_layers(rounded(influence), len(self.plan.target.layers))

    def _influence(self, journal: Journal, calibration: Calibration | None) -> list[float]:
        """Of every layer; from the journal where an earlier run, or this one, had measured it."""
        path = journal.directory / _RECORD
        if not path.exists():
            assert calibration is not None, "measured before anything is copied"
            measured = self._measure(journal, calibration)
            write_text_durably(path, json.dumps({INFLUENCE: measured}))
        try:
            found = read_json(path)[INFLUENCE]
        except (IntegrityError, KeyError):
            found = None
        if not _are_numbers(found, len(self.plan.source.layers)):
            raise IntegrityError(f"{path} is damaged: start again with --fresh")
        return found  # type: ignore[no-any-return]

    def _measure(self, journal: Journal, calibration: Calibration) -> list[float]:
        meta, count = self.checkpoint.meta, len(self.plan.source.layers)
        found = []
        with stage(self.progress, "measuring layers", count), full_float32():
            states = self._embed(calibration, journal)
            forward = LayerForward(meta.family, meta.config, states.tokens, self.device, self.dtype)
            for i in range(count):
                layer = forward.layer(self.plan.source, i, self.checkpoint.layer(i))
                found.append(block_influence(layer, states))
                self.progress.record("layer", {"layer": i, INFLUENCE: found[-1]})
                self.progress.advance()
        return found

    def _require_own(self, fingerprint: Mapping[str, Any]) -> None:
        """Which layers went is no choice, but what the run found."""
        told = (read_manifest(self.out) or {}).get("recipe")
        found = {DROPPED: told[DROPPED]} if isinstance(told, dict) and DROPPED in told else {}
        recipe = {**fingerprint["recipe"], **found}
        require_published(self.out, {**fingerprint, "recipe": recipe})

    def _finish(self, journal: Journal, source: Mapping[str, Any], recipe: dict[str, Any]) -> None:
        meta = self.checkpoint.meta
        count = len(self.plan.source.layers)
        influence = self._influence(journal, None) if self.removes else []
        kept = self._kept(influence) if self.removes else list(range(count))
        finish(
            journal,
            self.checkpoint,
            self.plan,
            self.out,
            source,
            recipe | {DROPPED: [i for i in range(count) if i not in kept]},
            self.device.type,
            config=meta.family.keep_layers(meta.config, kept),
            quality={INFLUENCE: rounded(influence)} if influence else {},
        )


def _are_numbers(found: Any, count: int) -> bool:
    """Whether it is a finite number for each layer."""
    return (
        isinstance(found, list)
        and len(found) == count
        and all(isinstance(x, float) and isfinite(x) for x in found)
    )


def kept_layers(influence: list[float], count: int) -> list[int]:
    """Numbers of the ``count`` layers of most influence, in their order; of equal ones, the first.

    >>> kept_layers([0.5, 0.1, 0.1, 0.4], 3)
    [0, 1, 3]
    """
    ranked = sorted(range(len(influence)), key=lambda i: (-influence[i], i))
    return sorted(ranked[:count])


def block_influence(layer: Layer, states: Activations) -> float:
    """One minus the mean cosine of the states before and after a layer; moves them through it.

    Args:
        layer: ready to run.
        states: its inputs (samples, tokens, hidden), replaced by its outputs.

    Raises:
        IntegrityError: states overflow or are no numbers.
    """
    total, count = 0.0, 0
    for place, x in states:
        y = layer.through(x)
        total += float(_cosines(x, y).sum())
        count += x.shape[0] * x.shape[1]
        states[place] = y
    if not isfinite(total):
        raise IntegrityError(
            "the activations overflow or are no numbers: the weights are damaged, or --dtype "
            "float32 is needed"
        )
    return 1 - total / count


def _cosines(x: Tensor, y: Tensor) -> Tensor:
    """In float64: layers that change little differ in digits that float32 does not have."""
    return torch.nn.functional.cosine_similarity(x.double(), y.double(), dim=-1)
