"""Where the numbers are from, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from slimgpt_bench.report.blocks import Block, Cell, Mark, Prose, Section, Table
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.cells import machine, status

_SHORT = 12


def problems(pages: Pages) -> Section | None:
    """Everything that a run says against itself, before any of its numbers."""
    blocks: list[Block] = []
    for number, document in enumerate(pages.results, 1):
        mark: Mark = "unsure" if document["valid"] else "bad"
        where = f"Run {number}, {document['kind']}"
        said = list(dict.fromkeys([*document["problems"], *_inner(document)]))
        if not document["valid"]:
            where += ", is not valid"
        blocks += [Prose(f"{where}: {text}", mark) for text in said]
    valid = all(x["valid"] for x in pages.results)
    name = "What to know first" if valid else "Problems"
    return Section("problems", name, tuple(blocks)) if blocks else None


def _inner(document: Mapping[str, Any]) -> Iterator[str]:
    for entry in (*document.get("cells", ()), *document.get("levels", ())):
        yield from entry.get("problems", ())
    yield from document.get("differences", ())


def origins(pages: Pages) -> Section:
    """Runs, models and machines."""
    runs = [
        (
            f"{number}. {document['kind']}",
            document["created"].replace("T", " ").replace("Z", " UTC"),
            Cell(" ".join(document["command"]), mark="code"),
            machine(document),
            document["workload"]["digest"][:_SHORT],
            status(document),
        )
        for number, document in enumerate(pages.results, 1)
    ]
    blocks: list[Block] = []
    if runs:
        header = ("Run", "Made", "Command", "Machine", "Workload", "Status")
        blocks.append(Table("Runs", header, tuple(runs), words=frozenset({1, 2, 3, 4, 5})))
    models = [(x.name, x.digest) for x in pages.models]
    blocks.append(Table("Models", ("Model", "SHA-256"), tuple(models), words=frozenset({1})))
    for number, document in enumerate(pages.results, 1):
        caption = f"Environment of run {number}, {document['kind']}"
        rows = tuple(_flat(document))
        words = frozenset({1})
        blocks.append(Table(caption, ("What", "Value"), rows, words, folded=True))
    lead = (
        "Only runs of the same workload, engine and machine are drawn together; numbers of "
        "different workloads or tokenizers are different quantities."
    )
    return Section("origins", "Where this is from", tuple(blocks), lead)


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str | Cell, ...]]:
    yield "slimgpt", str(document["slimgpt_version"])
    for part in ("environment", "settings", "protocol", "target", "load"):
        for name, value in (document.get(part) or {}).items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name, shown
