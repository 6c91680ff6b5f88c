"""How fast models are alone: cells of batch and lengths, on each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt_bench.report.blocks import Block, Cell, Chart, Charts, Heading, Section, Series, Table
from slimgpt_bench.report.charts.forest import Entry, Row, forest
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.cells import (
    NAMES,
    ends,
    machine,
    percentile,
    place,
    quantity,
    status,
)
from slimgpt_bench.report.sections.drawn import name_of, series_of
from slimgpt_bench.report.told import ONE, medians, seconds_unit

_DRAWN = ("tpot_s", "ttft_s")
_COLUMNS = ("ttft_s", "tpot_s", "itl_s", "e2e_s")

Document = Mapping[str, Any]


def latency(pages: Pages) -> Section | None:
    """A part for each engine, machine and workload: what differs there is not drawn together."""
    blocks: list[Block] = []
    for i, group in enumerate(_alike(pages)):
        blocks += _part(pages, group, f"latency-{i}")
    lead = (
        "The model alone: no server, no queue. Medians over fresh processes with 95 % intervals; a "
        "percentile is printed only where there are enough samples, otherwise it says "
        "insufficient. A cross marks what is not valid."
    )
    return Section("latency", "Latency", tuple(blocks), lead) if blocks else None


def _alike(pages: Pages) -> list[list[Document]]:
    groups: dict[tuple[str, ...], list[Document]] = {}
    for document in pages.of("latency"):
        tokenizer = (document["artefact"] or {}).get("tokenizer_digest")
        same = (document["engine"], document["workload"]["digest"], machine(document))
        groups.setdefault((*same, str(tokenizer), _settings(document)), []).append(document)
    return list(groups.values())


def _settings(document: Document) -> str:
    told = document["settings"]
    said = [str(told["dtype"])] if told.get("dtype") else []
    if "compiled" in told:
        said.append("compiled" if told["compiled"] else "not compiled")
    if told.get("threads"):
        said.append(f"{told['threads']} thread{'s' * (told['threads'] != 1)}")
    return ", ".join(said)


def _part(pages: Pages, group: Sequence[Document], key: str) -> list[Block]:
    first = group[0]
    note = f"{_settings(first)}; {machine(first)}; batch × prompt → output tokens"
    series = series_of(pages, group)
    charts = tuple(
        c for name in _DRAWN if (c := _chart(f"{key}-{name}", name, group, series)) is not None
    )
    blocks: list[Block] = [Heading(first["engine"], note)]
    blocks += [Charts(charts, series)] if charts else []
    return [*blocks, _table(pages, group), _percentiles(pages, group)]


def _chart(
    key: str, name: str, group: Sequence[Document], series: Sequence[Series]
) -> Chart | None:
    unit = seconds_unit(medians([c[name] for x in group for c in x["cells"]]), drawn=True)
    rows: dict[str, list[Entry]] = {}
    for document, one in zip(group, series, strict=True):
        for cell in document["cells"]:
            value, told = cell[name]["median"], ends(cell[name]["interval"])
            if isinstance(value, int | float):
                span = (told[0] / unit.size, told[1] / unit.size) if told else None
                flagged = not (cell["valid"] and document["valid"])
                entry = Entry(one, value / unit.size, span, flagged)
                rows.setdefault(place(cell), []).append(entry)
    if not rows:
        return None
    drawn = [Row(where, tuple(entries)) for where, entries in rows.items()]
    return forest(key, NAMES[name], unit.name, drawn)


def _table(pages: Pages, group: Sequence[Document]) -> Table:
    cells = [(x, cell) for x in group for cell in x["cells"]]
    units = {name: seconds_unit(medians([c[name] for _, c in cells])) for name in _COLUMNS}
    rows: list[tuple[str | Cell, ...]] = [
        (
            name_of(pages, document),
            place(cell),
            *(quantity(cell[name], units[name]) for name in _COLUMNS),
            quantity(cell["decode_tokens_per_s"], ONE),
            Cell(f"{cell['requests']['ok']} of {cell['requests']['sent']}"),
            status(cell),
        )
        for document, cell in cells
    ]
    named = [f"{NAMES[name]}, {units[name].name}" for name in _COLUMNS]
    header = ("Model", "Batch × prompt → output", *named, "Decode, tokens/s", "Answered", "Status")
    return Table("Latency, median and interval", header, tuple(rows), words=frozenset({1, 8}))


def _percentiles(pages: Pages, group: Sequence[Document]) -> Table:
    rows: list[tuple[str | Cell, ...]] = []
    for document in group:
        for cell in document["cells"]:
            for name in _COLUMNS:
                unit = seconds_unit(medians([cell[name]]))
                told = (percentile(cell[name], p, unit) for p in ("p95", "p99"))
                label = f"{NAMES[name]}, {unit.name}"
                samples = f"{cell[name]['n']:,}"
                rows.append((label, name_of(pages, document), place(cell), *told, samples))
    header = ("Quantity", "Model", "Batch × prompt → output", "p95", "p99", "Samples")
    words = frozenset({1, 2})
    return Table("Percentiles", header, tuple(rows), words=words, folded=True)
