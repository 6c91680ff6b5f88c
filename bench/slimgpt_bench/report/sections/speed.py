"""Dense against pruned: ratios with their intervals and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt_bench.report.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Heading,
    Prose,
    Section,
    Series,
    Table,
)
from slimgpt_bench.report.charts.forest import Entry, Row, forest
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.cells import (
    NAMES,
    VERDICTS,
    ends,
    machine,
    place,
    quantity,
)
from slimgpt_bench.report.sections.predictions import predictions
from slimgpt_bench.report.told import interval, medians, number, seconds_unit

QUANTITIES = ("tpot_s", "ttft_s", "prefill_s", "e2e_s")


def speed(pages: Pages) -> Section | None:
    """A part for each comparison: they are never drawn together, since each is an experiment."""
    blocks: list[Block] = []
    for i, document in enumerate(pages.of("compare")):
        blocks += _part(pages, document, f"speed-{i}")
    lead = (
        "Time of the dense model over time of the other: above 1 the other is faster. Both ran in "
        "one experiment, in turns and in fresh processes. Intervals are 95 %; a verdict is given "
        "only where the whole interval is on one side."
    )
    return Section("speed", "Speed against dense", tuple(blocks), lead) if blocks else None


def _part(pages: Pages, document: Mapping[str, Any], key: str) -> list[Block]:
    dense, pruned = pages.model(document["dense"]), pages.model(document["pruned"])
    note = f"{document['engine']} on {machine(document)}; batch × prompt → output tokens"
    blocks: list[Block] = [Heading(f"{pruned.name} against {dense.name}", note)]
    if not document["valid"]:
        blocks.append(Prose("This comparison is not valid: see the problems above.", "bad"))
    series = [Series(pruned.name, 0)]
    if document["third"]:
        series.append(Series(pages.model(document["third"]).name, 1))
    cells = document["cells"]
    names = [name for name in QUANTITIES if all(name in cell for cell in cells)]
    charts = [c for name in names if (c := _chart(f"{key}-{name}", name, cells, series))]
    if charts:
        blocks.append(Charts(tuple(charts), tuple(series) if len(series) > 1 else ()))
    blocks.append(_table(cells, names, dense.name, pruned.name))
    if document["third"]:
        blocks.append(_third(cells, names, (dense.name, pruned.name, series[1].name)))
    return [*blocks, *predictions(document["predicted"])]


def _chart(
    key: str, name: str, cells: Sequence[Mapping[str, Any]], series: Sequence[Series]
) -> Chart | None:
    rows = []
    for cell in cells:
        found = (cell[name], cell[name]["third"])
        entries = tuple(
            Entry(one, of["ratio"], ends(of["interval"]))
            for one, of in zip(series, found, strict=False)
            if of and isinstance(of["ratio"], int | float)
        )
        if entries:
            rows.append(Row(place(cell), entries))
    return forest(key, NAMES[name], "times as fast as dense", rows, reference=1.0) if rows else None


def _table(
    cells: Sequence[Mapping[str, Any]], names: Sequence[str], dense: str, pruned: str
) -> Table:
    header = ("Quantity", "Batch × prompt → output", dense, pruned, "Ratio", "Verdict")
    rows = [_row(cell, name) for name in names for cell in cells]
    return Table("Times and ratios", header, tuple(rows), words=frozenset({1, 5}))


def _row(cell: Mapping[str, Any], name: str) -> tuple[str | Cell, ...]:
    found = cell[name]
    unit = seconds_unit(medians([found["dense"], found["pruned"]]))
    return (
        f"{NAMES[name]}, {unit.name}",
        place(cell),
        quantity(found["dense"], unit),
        quantity(found["pruned"], unit),
        *_told(found),
    )


def _third(
    cells: Sequence[Mapping[str, Any]], names: Sequence[str], models: tuple[str, str, str]
) -> Table:
    dense, pruned, third = models
    rows: list[tuple[str | Cell, ...]] = []
    for name in names:
        for cell in cells:
            if found := cell[name]["third"]:
                told = [x for x in (found, found["pruned_against_third"]) for x in _told(x)]
                rows.append((NAMES[name], place(cell), *told))
    against = (f"{third} against {dense}", f"{pruned} against {third}")
    ratios = (x for name in against for x in (name, "verdict"))
    header = ("Quantity", "Batch × prompt → output", *ratios)
    return Table("The third model", header, tuple(rows), words=frozenset({1, 3, 5}))


def _told(found: Mapping[str, Any]) -> tuple[Cell, Cell]:
    """A ratio and its verdict."""
    ratio = Cell(number(found["ratio"]), interval(found["interval"]))
    return ratio, Cell(found["verdict"], mark=VERDICTS[found["verdict"]])
