"""The roofline of both models, beside what the experiment found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt.checkpoint.reader import BYTES_PER_VALUE
from slimgpt.progress import Progress, stage
from slimgpt_bench.accelerators import HERE, find
from slimgpt_bench.artefact import Artefact
from slimgpt_bench.compare.experiment import device_of
from slimgpt_bench.compare.sides import Side
from slimgpt_bench.latency import LatencyOptions
from slimgpt_bench.latency.process import worker_environment
from slimgpt_bench.roofline.apart import layer_times, width_cost
from slimgpt_bench.roofline.floor import Lengths
from slimgpt_bench.roofline.layer_times import LayerTimes, LayerTimesOptions
from slimgpt_bench.roofline.outlook import Model, Outlook, outlook_document
from slimgpt_bench.roofline.products import Numbers
from slimgpt_bench.roofline.width_cost import WidthCost, WidthCostOptions
from slimgpt_bench.roofline.widths import Uneven

_TORCH_ENGINES = ("transformers", "vllm")
"""Whose matrix products are those that torch has."""


def predict(
    sides: Sequence[Side],
    options: LatencyOptions,
    settings: Mapping[str, Any],
    ratios: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> dict[str, Any]:
    """The ``predicted`` entry, for this machine at its measured speeds.

    Args:
        sides: dense, pruned, and perhaps a third, which is left out.
        options: of the experiment.
        settings: as the engine described itself.
        ratios: the ``cells`` entry, in the order of ``options.cells``.
        progress: watches.
    """
    dense, pruned = (side.artefact for side in sides[:2])
    device, dtype = str(settings["device"]), str(settings["dtype"])
    with stage(progress, "roofline", 1):
        together = options.engine != "onnx"
        outlook = Outlook(
            Model(dense.shape, _numbers(dense, dtype)),
            Model(pruned.shape, _numbers(pruned, dtype)),
            find(HERE, device=device_of(options, settings)),
            prompts_together=together,
        )
        cells = [
            (Lengths(cell.batch, cell.prompt_tokens, cell.output_tokens), told)
            for cell, told in zip(options.cells, ratios, strict=True)
        ]
        measured = _Apart(options, device, dtype, settings)
        found = outlook_document(
            outlook,
            cells,
            times=measured.layers(dense, pruned, cells[0][0]),
            costs=measured.widths(outlook.uneven(cells[0][0]), pruned, cells[0][0]),
        )
        progress.advance()
    return found


def _numbers(artefact: Artefact, dtype: str) -> Numbers:
    """Weights as the engine holds them; packed ones by the size of their files."""
    value = BYTES_PER_VALUE.get(dtype, 4)
    plain = artefact.form == "checkpoint" and artefact.dtype in BYTES_PER_VALUE
    stored = float(value) if plain else artefact.weight_bytes / artefact.shape.parameters
    return Numbers(stored, value, dtype)


class _Apart:
    """Measurements that are no part of the headline."""

    def __init__(
        self, options: LatencyOptions, device: str, dtype: str, settings: Mapping[str, Any]
    ) -> None:
        # As the engine says it, in the environment that the engine has: of the same GPU.
        self._options, self._device, self._dtype = options, device, dtype
        self._threads = None if device.startswith("cuda") else settings.get("threads")
        self._environment = worker_environment(options, os.environ)

    def layers(
        self, dense: Artefact, pruned: Artefact, cell: Lengths
    ) -> tuple[LayerTimes, LayerTimes] | None:
        """Of both models; None where the engine is not transformers."""
        if self._options.engine != "transformers":
            return None
        asked = LayerTimesOptions(
            cell.batch,
            cell.prompt_tokens,
            steps=max(1, min(8, cell.output_tokens)),
            device=self._device,
            dtype=self._dtype,
            threads=self._threads,
            seed=self._options.seed,
        )
        first, second = (
            layer_times(x.directory, asked, self._environment) for x in (dense, pruned)
        )
        return first, second

    def widths(self, uneven: Sequence[Uneven], model: Artefact, cell: Lengths) -> list[WidthCost]:
        """The costliest feed-forward width beside its aligned neighbours, for prompts and steps."""
        first = next((x for x in uneven if x.block == "ffn"), None)
        if first is None or self._options.engine not in _TORCH_ENGINES:
            return []
        return [
            width_cost(
                WidthCostOptions(
                    model.shape.hidden_size,
                    first.width,
                    other.width,
                    rows,
                    len(model.shape.layers),
                    self._device,
                    self._dtype,
                    self._threads,
                ),
                self._environment,
            )
            for rows in dict.fromkeys((cell.batch * cell.prompt_tokens, cell.batch))
            for other in (first.down, first.up)
            if other
        ]
