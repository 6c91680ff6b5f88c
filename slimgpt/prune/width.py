"""A run that removes heads and neurons: every layer keeps its place and gets its own widths."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from slimgpt.calibration import Calibration
from slimgpt.progress import stage
from slimgpt.prune.activations import Activations
from slimgpt.prune.choose import METHODS
from slimgpt.prune.finish import finish
from slimgpt.prune.forward import LayerForward, full_float32
from slimgpt.prune.journal import Journal
from slimgpt.prune.layer import LayerPruner
from slimgpt.prune.run import Run, named, unnamed
from slimgpt.resources import peak_rss_bytes


class WidthRun(Run):
    """Prunes each layer to the widths of the plan."""

    def _choices(self, dtype: str) -> dict[str, Any]:
        return self.options.recipe(self.plan, self._damping, dtype)

    @property
    def _damping(self) -> float:
        asked = self.options.damping
        return METHODS[self.options.method].damping if asked is None else asked

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
                METHODS[self.options.method],
                self.plan.kv_heads,
                self._damping,
            )
            for i in range(count):
                if i < done:
                    pruner.replay(i, unnamed(i, journal.read_layer(i)), states)
                else:
                    self._prune_layer(i, pruner, journal, states)
                self.progress.advance()

    def _prune_layer(
        self, index: int, pruner: LayerPruner, journal: Journal, states: Activations
    ) -> None:
        started = time.monotonic()
        pruned = pruner.prune(index, self.checkpoint.layer(index), states)
        record = pruned.record()
        journal.finish_layer(index, named(index, pruned.tensors), record)
        spent = {"seconds": time.monotonic() - started, "peak_rss_bytes": peak_rss_bytes()}
        self.progress.record("layer", {"layer": index, **record, **spent})

    def _finish(self, journal: Journal, source: Mapping[str, Any], recipe: dict[str, Any]) -> None:
        finish(journal, self.checkpoint, self.plan, self.out, source, recipe, self.device.type)
