"""What the roofline of the actual widths predicts, beside what was achieved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimgpt_bench.report.blocks import Block, Cell, Prose, Table
from slimgpt_bench.report.sections.cells import NAMES, place, scaled
from slimgpt_bench.report.told import Unit, interval, number

_MILLI = Unit(1e-3, "ms")


def predictions(told: Mapping[str, Any] | None) -> list[Block]:
    """Tables of a comparison's ``predicted`` entry; none where nothing was predicted."""
    if not told:
        return []
    device = told.get("device") or {}
    name = str(device.get("name"))
    blocks: list[Block] = [_ratios(told, "this machine" if name == "here" else name)]
    if costly := told.get("costliest_width"):
        blocks.append(Prose(_width(costly)))
        blocks += _costs(costly.get("measured") or [])
    if told.get("layers"):
        blocks.append(_layers(told["layers"]))
    return blocks


def _ratios(told: Mapping[str, Any], device: str) -> Table:
    rows = [
        (
            NAMES[name],
            place(cell),
            number(found["predicted"]),
            Cell(number(found["achieved"]), interval(found["interval"])),
            Cell(number(found["efficiency"]), interval(found.get("efficiency_interval"))),
        )
        for cell in told.get("cells") or ()
        for name, found in cell.items()
        if name in NAMES and isinstance(found, Mapping)
    ]
    header = ("Quantity", "Batch × prompt → output", "Predicted", "Achieved", "Achieved/predicted")
    caption = f"Ratios that the roofline of {device} predicts, and as measured"
    return Table(caption, header, tuple(rows), words=frozenset({1}))


def _width(told: Mapping[str, Any]) -> str:
    """The width whose tiles waste most, and its neighbours."""
    near = [number(x["width"]) for k in ("down", "up") if (x := told.get(k))]
    block = "feed-forward" if told.get("block") == "ffn" else str(told.get("block"))
    said = f"The width that costs most beyond its size: {block} of layer "
    said += f"{told.get('layer')}, {number(told.get('width'))} wide"
    return said + (f"; the nearest aligned widths are {' and '.join(near)}." if near else ".")


def _costs(measured: list[Mapping[str, Any]]) -> list[Block]:
    """The block as it is beside the same block of an aligned width, both timed."""
    rows = tuple(
        (
            number(x.get("width")),
            number(x.get("aligned")),
            number(x.get("rows")),
            Cell(number(x.get("ratio")), interval(x.get("interval"))),
        )
        for x in measured
    )
    header = ("Width", "Aligned width", "Tokens at once", "Time over the aligned one's")
    return [Table("Cost of that width, measured", header, rows, folded=True)] if rows else []


def _layers(layers: list[Mapping[str, Any]]) -> Table:
    steps = [s for s in ("prefill_s", "decode_s") if any(s in x for x in layers)]
    header = ["Layer"]
    for step in steps:
        name = step.removesuffix("_s")
        header += [f"{name}, predicted ratio", "achieved ratio", "achieved dense, ms", "pruned, ms"]
    rows = tuple((str(layer["layer"]), *_layer(layer, steps)) for layer in layers)
    return Table("Predicted and achieved by layer", tuple(header), rows, folded=True)


def _layer(layer: Mapping[str, Any], steps: list[str]) -> Iterator[str]:
    for step in steps:
        found = layer.get(step) or {}
        predicted, achieved = found.get("predicted") or {}, found.get("achieved") or {}
        yield number(predicted.get("ratio"))
        yield number(achieved.get("ratio"))
        yield scaled(achieved.get("dense"), _MILLI)
        yield scaled(achieved.get("pruned"), _MILLI)
