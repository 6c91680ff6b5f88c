"""How good the models are, and quality against size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slimgpt_bench.report.blocks import Block, Cell, Charts, Section, Series, Table
from slimgpt_bench.report.charts.scatter import Spot, scatter
from slimgpt_bench.report.models import Model
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.cells import scaled
from slimgpt_bench.report.told import count, percent, perplexity

Text = Mapping[str, Any]


def quality(pages: Pages) -> Section | None:
    """Perplexity and tasks of every model that has been judged."""
    blocks: list[Block] = []
    told = [(model, text) for model in pages.models for text in model.quality.get("texts") or ()]
    for i, group in enumerate(_alike(told)):
        if block := _drawn(f"quality-{i}", group):
            blocks.append(block)
    if told:
        blocks.append(_texts(told))
    if rows := list(_tasks(pages.models)):
        header = ("Task", "Model", "Metric", "This model", "Dense", "Questions")
        blocks.append(Table("Tasks", header, tuple(rows), words=frozenset({1, 2})))
    lead = (
        "Perplexity: lower is better; only numbers of the same text, window and protocol may be "
        "compared, and only these are drawn together."
    )
    return Section("quality", "Quality and size", tuple(blocks), lead) if blocks else None


def _alike(told: Sequence[tuple[Model, Text]]) -> list[list[tuple[Model, Text]]]:
    """Measurements of the same text in the same way."""
    groups: dict[tuple[str, ...], list[tuple[Model, Text]]] = {}
    for model, text in told:
        same = tuple(str(text.get(k)) for k in ("text", "sha256", "window", "protocol"))
        groups.setdefault(same, []).append((model, text))
    return list(groups.values())


def _drawn(key: str, group: Sequence[tuple[Model, Text]]) -> Charts | None:
    """Perplexity over parameters; the dense model's point is from the same measurement."""
    spots, dense = [], None
    for place, (model, text) in enumerate(group):
        value, before = text.get("perplexity"), text.get("baseline_perplexity")
        if model.parameters is None or not isinstance(value, int | float):
            continue
        spots.append(Spot(Series(model.name, place), model.parameters / 1e6, float(value)))
        if model.dense_parameters and isinstance(before, int | float):
            dense = Spot(
                Series("dense", 0, plain=True), model.dense_parameters / 1e6, float(before)
            )
    spots += [dense] if dense else []
    if len(spots) < 2:
        return None
    text = group[0][1]
    heading = f"{text.get('text')}, window {text.get('window')}, {text.get('protocol')}"
    return Charts((scatter(key, heading, "parameters, millions", "perplexity", spots),))


def _texts(told: Sequence[tuple[Model, Text]]) -> Table:
    rows = []
    for model, text in told:
        value, dense = text.get("perplexity"), text.get("baseline_perplexity")
        rise = Cell("–")
        if isinstance(value, int | float) and isinstance(dense, int | float) and dense:
            rise = Cell(f"{'+' if value >= dense else '−'}{percent(abs(value / dense - 1))}")
        rows.append(
            (
                model.name,
                f"{text.get('text')}, window {text.get('window')}, {text.get('protocol')}",
                perplexity(value),
                scaled(dense),
                rise,
                scaled(text.get("kl")),
                "–" if model.parameters is None else count(model.parameters),
            )
        )
    header = ("Model", "Text", "Perplexity", "Dense", "Change", "KL to dense", "Parameters")
    return Table("Perplexity", header, tuple(rows), words=frozenset({1}))


def _tasks(models: Sequence[Model]) -> Iterator[tuple[str | Cell, ...]]:
    for model in models:
        for name, task in (model.quality.get("tasks") or {}).items():
            before = task.get("baseline") or {}
            for metric in ("acc", "acc_norm"):
                if task.get(metric) is not None:
                    error = task.get(f"{metric}_stderr")
                    note = "" if error is None else f"± {scaled(error)}"
                    here = Cell(scaled(task[metric]), note)
                    dense = scaled(before.get(metric))
                    yield str(name), model.name, metric, here, dense, scaled(task.get("n"))
