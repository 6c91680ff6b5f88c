"""Predicted beside achieved: of the whole model, of every layer, and the width that costs most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.accelerators import Accelerator
from slimgpt_bench.intervals import INSUFFICIENT
from slimgpt_bench.roofline.floor import LEFT_OUT, Lengths, floor, middle, quantities
from slimgpt_bench.roofline.layer_times import LayerTimes
from slimgpt_bench.roofline.products import Numbers, Step, prefill
from slimgpt_bench.roofline.width_cost import WidthCost
from slimgpt_bench.roofline.widths import Uneven, uneven_widths


@dataclass(frozen=True, slots=True)
class Model:
    """One side of a prediction.

    Attributes:
        shape: its actual widths.
        numbers: what its values are stored and computed in.
    """

    shape: ModelShape
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Outlook:
    """A prediction for one pair of models on one device.

    Attributes:
        dense: what is pruned.
        pruned: the result.
        device: its speeds, from a datasheet or measured.
        prompts_together: whether an engine reads the prompts of a batch in one pass.
    """

    dense: Model
    pruned: Model
    device: Accelerator
    prompts_together: bool = True

    def cell(
        self, lengths: Lengths, achieved: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Predicted and achieved ratios of one cell, by quantity.

        Args:
            lengths: of the cell.
            achieved: the measured ratios by quantity, each with ``ratio`` and ``interval``.
        """
        before, after = (self._quantities(x, lengths) for x in (self.dense, self.pruned))
        return {
            name: {
                "dense": before[name],
                "pruned": after[name],
                **_beside(before[name] / after[name], achieved.get(name, {})),
            }
            for name in before
        }

    def _quantities(self, model: Model, lengths: Lengths) -> dict[str, float]:
        return quantities(
            model.shape,
            lengths,
            self.device,
            model.numbers,
            prompts_together=self.prompts_together,
        )

    def layers(
        self, lengths: Lengths, times: tuple[LayerTimes, LayerTimes] | None = None
    ) -> list[dict[str, Any]]:
        """A row for each layer: widths, least times, what is saved, and what was achieved.

        Layers that one model lacks have no row of its side.

        Args:
            lengths: of a cell.
            times: measured, dense and pruned.
        """
        steps = {"prefill_s": prefill(lengths.batch, lengths.prompt_tokens)}
        steps |= {"decode_s": middle(lengths)} if lengths.output_tokens > 1 else {}
        floors = {name: self._floors(step) for name, step in steps.items()}
        count = max(len(x.shape.layers) for x in (self.dense, self.pruned))
        return [self._row(i, floors, times) for i in range(count)]

    def _floors(self, step: Step) -> tuple[tuple[float, ...], tuple[float, ...]]:
        first, second = (
            floor(x.shape, step, self.device, x.numbers).layers for x in (self.dense, self.pruned)
        )
        return first, second

    def _row(
        self,
        index: int,
        floors: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]],
        times: tuple[LayerTimes, LayerTimes] | None,
    ) -> dict[str, Any]:
        shapes = self.dense.shape, self.pruned.shape
        row: dict[str, Any] = {
            "layer": index,
            "dense": _widths(shapes[0].layers, index),
            "pruned": _widths(shapes[1].layers, index),
        }
        for name, pair in floors.items():
            measured = _measured(times, name)
            row[name] = {
                "predicted": _pair(pair, index),
                "achieved": _pair(measured, index) if measured else None,
            }
        return row

    def uneven(self, lengths: Lengths) -> list[Uneven]:
        """Widths of the pruned model that are no multiple of the tile, the costliest first."""
        return uneven_widths(self.pruned.shape, lengths, self.device, self.pruned.numbers)


def _beside(predicted: float, achieved: Mapping[str, Any]) -> dict[str, Any]:
    """The efficiency is the achieved ratio over the predicted one, with its interval."""
    ratio, interval = (achieved.get(key, INSUFFICIENT) for key in ("ratio", "interval"))
    told = isinstance(ratio, float | int)
    ends = isinstance(interval, Sequence) and not isinstance(interval, str)
    return {
        "predicted": predicted,
        "achieved": ratio,
        "interval": interval,
        "efficiency": ratio / predicted if told else INSUFFICIENT,
        "efficiency_interval": [x / predicted for x in interval] if ends else INSUFFICIENT,
    }


def _widths(layers: tuple[LayerShape, ...], index: int) -> dict[str, int] | None:
    if index >= len(layers):
        return None
    layer = layers[index]
    return {"query_heads": layer.query_heads, "kv_heads": layer.kv_heads, "ffn": layer.ffn}


def _measured(
    times: tuple[LayerTimes, LayerTimes] | None, name: str
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if times is None:
        return None
    if name == "prefill_s":
        return times[0].prefill, times[1].prefill
    return times[0].decode, times[1].decode


def _pair(sides: tuple[tuple[float, ...], tuple[float, ...]], index: int) -> dict[str, Any]:
    """Seconds of a layer on both sides, and their ratio."""
    before, after = (x[index] if index < len(x) else None for x in sides)
    ratio = before / after if before and after else None
    return {"dense": before, "pruned": after, "ratio": ratio}


def outlook_document(
    outlook: Outlook,
    cells: Sequence[tuple[Lengths, Mapping[str, Mapping[str, Any]]]],
    *,
    times: tuple[LayerTimes, LayerTimes] | None = None,
    costs: Sequence[WidthCost] = (),
) -> dict[str, Any]:
    """The ``predicted`` entry of a comparison.

    Args:
        outlook: of the two models.
        cells: with what was achieved in each; layers and widths are told for the first.
        times: of layers, measured in trials of their own.
        costs: of the costliest feed-forward width, measured.
    """
    first = cells[0][0]
    uneven = outlook.uneven(first)
    worst = uneven[0].to_json() if uneven else None
    return {
        "device": outlook.device.to_json(),
        "model": "sum over matrix products of max(bytes / bandwidth, FLOPs in whole tiles / peak)",
        "left_out": LEFT_OUT,
        "cells": [
            {
                "batch": lengths.batch,
                "prompt_tokens": lengths.prompt_tokens,
                "output_tokens": lengths.output_tokens,
                **outlook.cell(lengths, achieved),
            }
            for lengths, achieved in cells
        ],
        "layers": outlook.layers(first, times),
        "uneven_widths": [x.to_json() for x in uneven],
        "costliest_width": worst,
        "measured_widths": [x.to_json() for x in costs],
    }
