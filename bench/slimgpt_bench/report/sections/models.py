"""What the models are: widths of their layers, errors of their pruning, gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimgpt_bench.report.blocks import Block, Cell, Chart, Charts, Heading, Section, Series, Table
from slimgpt_bench.report.charts.bars import widths
from slimgpt_bench.report.charts.curves import Curve, Dot, Frame, curves
from slimgpt_bench.report.models import Model, is_pruned
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.cells import scaled
from slimgpt_bench.report.told import count, percent

_WIDTHS = (
    ("query_heads", "Query heads", "heads"),
    ("kv_heads", "KV heads", "heads"),
    ("ffn", "Feed-forward width", "neurons"),
)
_BLOCKS = (("attention", "Attention"), ("mlp", "Feed-forward"))
_TRUNCATED, _COMPENSATED = Series("cut away only", 0, plain=True), Series("with compensation", 0)


def shapes(pages: Pages) -> Section | None:
    """Widths of every pruned model."""
    blocks: list[Block] = []
    shown = [x for x in pages.models if x.layers and is_pruned(x) and not x.origin]
    for i, model in enumerate(shown):
        blocks.append(Heading(model.name, _kept(model) + _exports(pages, model)))
        blocks.append(Charts(tuple(_width_charts(model, f"widths-{i}"))))
        blocks.append(_width_table(model))
    lead = "Pruned layers keep what matters most to them. Outlines are the dense model's widths."
    return Section("widths", "Widths of the layers", tuple(blocks), lead) if blocks else None


def errors(pages: Pages) -> Section | None:
    """Relative error of each layer's output, before and after the others made up for it."""
    blocks: list[Block] = []
    for i, model in enumerate(pages.models):
        layers = [] if model.origin else model.quality.get("layers") or []
        charts = [
            chart
            for block, name in _BLOCKS
            if (chart := _error_chart(f"errors-{i}-{block}", name, block, layers))
        ]
        if charts:
            blocks.append(Heading(model.name))
            blocks.append(Charts(tuple(charts), (_TRUNCATED, _COMPENSATED)))
            blocks.append(_error_table(layers))
    lead = (
        "Squared error of each block's output on the calibration text, over the squared output: "
        "if columns were only cut away, and after the remaining weights were adjusted."
    )
    return Section("errors", "Error by layer", tuple(blocks), lead) if blocks else None


def gates(pages: Pages) -> Section | None:
    """What a release had to meet."""
    rows: list[tuple[str | Cell, ...]] = [
        (
            str(gate.get("name")),
            model.name,
            scaled(gate.get("measured")),
            scaled(gate.get("limit")),
            str(gate.get("unit") or ""),
            Cell("passed", mark="good") if gate.get("passed") is True else _missed(gate),
        )
        for model in pages.models
        for gate in model.gates
    ]
    header = ("Gate", "Model", "Measured", "Limit", "Unit", "Verdict")
    table = Table("Release gates", header, tuple(rows), words=frozenset({1, 4, 5}))
    return Section("gates", "Gates", (table,)) if rows else None


def _missed(gate: Mapping[str, Any]) -> Cell:
    return Cell("missed", str(gate.get("why") or ""), "bad")


def _kept(model: Model) -> str:
    told = [f"{len(model.layers)} layers"]
    if model.parameters is not None:
        told.append(f"{count(model.parameters)} parameters")
    if model.parameters is not None and model.dense_parameters:
        told.append(f"{percent(model.parameters / model.dense_parameters)} of the dense model's")
    return ", ".join(told)


def _exports(pages: Pages, model: Model) -> str:
    names = [x.name for x in pages.models if x.origin == model.digest]
    return f"; its exports are as wide: {', '.join(names)}" if names else ""


def _width_charts(model: Model, key: str) -> list[Chart]:
    charts = []
    for name, heading, unit in _kinds(model):
        kept = [x[name] for x in model.layers]
        dense = [x[name] for x in model.dense_layers]
        total = f"{heading}: {sum(kept):,}"
        total += f" of {sum(dense):,} ({percent(sum(kept) / sum(dense))})" if sum(dense) else ""
        charts.append(widths(f"{key}-{name}", total, unit, kept, dense))
    return charts


def _kinds(model: Model) -> tuple[tuple[str, str, str], ...]:
    """Query and KV heads are one thing where every head has its own keys and values."""
    layers = (*model.layers, *model.dense_layers)
    if all(x["query_heads"] == x["kv_heads"] for x in layers):
        return ("query_heads", "Attention heads", "heads"), _WIDTHS[2]
    return _WIDTHS


def _width_table(model: Model) -> Table:
    header = ["Layer"]
    kinds = _kinds(model)
    for _, name, _ in kinds:
        header += [name, "dense"] if model.dense_layers else [name]
    rows = []
    for i, layer in enumerate(model.layers):
        row = [str(i)]
        for name, _, _ in kinds:
            row.append(f"{layer[name]:,}")
            if model.dense_layers:
                dense = model.dense_layers[i][name] if i < len(model.dense_layers) else None
                row.append(scaled(dense))
        rows.append(tuple(row))
    return Table(f"Widths of {model.name}", tuple(header), tuple(rows), folded=True)


def _error(layer: Mapping[str, Any], block: str, which: str) -> Any:
    return (layer.get(block) or {}).get(which)


def _error_chart(key: str, name: str, block: str, layers: list[Mapping[str, Any]]) -> Chart | None:
    drawn = []
    for series, which in ((_TRUNCATED, "truncated"), (_COMPENSATED, "compensated")):
        found = ((i, _error(layer, block, which)) for i, layer in enumerate(layers))
        dots = tuple(Dot(float(i), v) for i, v in found if isinstance(v, int | float))
        drawn.append(Curve(series, dots))
    if not any(curve.dots for curve in drawn):
        return None
    frame = Frame(key, name, "relative squared error", "layer", layers=len(layers))
    return curves(frame, drawn)


def _error_table(layers: list[Mapping[str, Any]]) -> Table:
    header = ("Layer", "Attention, cut", "compensated", "Feed-forward, cut", "compensated")
    rows = [
        (
            str(i),
            *(
                scaled(_error(layer, block, which))
                for block, _ in _BLOCKS
                for which in ("truncated", "compensated")
            ),
        )
        for i, layer in enumerate(layers)
    ]
    return Table("Error of every layer", header, tuple(rows), folded=True)
