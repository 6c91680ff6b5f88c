"""Memory: five kinds, which are never added up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimgpt_bench.report.blocks import Block, Cell, Heading, Section, Table
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.cells import machine
from slimgpt_bench.report.sections.drawn import name_of
from slimgpt_bench.report.told import number, size

KINDS = {
    "weights": "Weights",
    "kv": "KV cache",
    "allocator": "Allocator",
    "device": "Device",
    "process": "Process",
}
_NAMES = {
    "file_bytes": "files",
    "bytes_per_token": "a token",
    "measured_bytes_per_token": "a token, measured",
    "token_capacity": "tokens there is room for",
    "pss_bytes": "PSS",
    "high_water_bytes": "high-water mark",
    "baseline_bytes": "PSS before the model",
    "anonymous_bytes": "of the PSS, pages of no file",
    "baseline_anonymous_bytes": "of the PSS before the model, pages of no file",
}
_SIDES = ("dense", "pruned", "third")


def memory(pages: Pages) -> Section | None:
    """A table for each run that measured it."""
    blocks: list[Block] = []
    for document in pages.of("compare"):
        sides = [side for side in _SIDES if document[side]]
        names = [pages.model(document[side]).name for side in sides]
        found = {side: _side(document["memory"], side) for side in sides}
        blocks += _part(document, names, [found[side] for side in sides])
    for document in pages.of("latency"):
        blocks += _part(document, [name_of(pages, document)], [document["memory"]])
    lead = (
        "Five kinds that answer different questions and are never added up: bytes of the weights, "
        "bytes a token of the KV cache, what the allocator holds, what the device says is in use, "
        "and what the process takes."
    )
    return Section("memory", "Memory", tuple(blocks), lead) if blocks else None


def _side(memory: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    return {kind: entry.get(side) or {} for kind, entry in memory.items()}


def _part(
    document: Mapping[str, Any], names: list[str], sides: list[Mapping[str, Any]]
) -> list[Block]:
    rows = list(_rows(sides))
    if not rows:
        return []
    heading = Heading(" against ".join(names[::-1]), f"{document['engine']} on {machine(document)}")
    header = ("Kind", "What", *names)
    return [heading, Table("Memory by kind", header, tuple(rows), words=frozenset({1}))]


def _rows(sides: list[Mapping[str, Any]]) -> Iterator[tuple[str | Cell, ...]]:
    kinds = dict.fromkeys(kind for side in sides for kind in side)
    for kind in sorted(kinds, key=lambda k: list(KINDS).index(k) if k in KINDS else len(KINDS)):
        names = dict.fromkeys(name for side in sides for name in side.get(kind) or {})
        for name in names:
            values = [(side.get(kind) or {}).get(name) for side in sides]
            if any(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
                label = _NAMES.get(name, name.removesuffix("_bytes").replace("_", " "))
                what = Cell(label, _source(kind, name, sides))
                yield KINDS.get(kind, kind), what, *(_amount(name, v) for v in values)
        reasons = dict.fromkeys(
            str(r) for side in sides if (r := (side.get(kind) or {}).get("reason"))
        )
        for reason in reasons:
            yield KINDS.get(kind, kind), Cell(reason, mark="quiet"), *("–" for _ in sides)


def _source(kind: str, name: str, sides: list[Mapping[str, Any]]) -> str:
    """What a number rests on, where it is told: modelled, or counted in some way."""
    told = ((side.get(kind) or {}) for side in sides)
    key = f"{name.removesuffix('_bytes')}_source"
    return "; ".join(dict.fromkeys(str(x[key]) for x in told if x.get(key)))


def _amount(name: str, value: Any) -> str:
    return size(value) if "bytes" in name else number(value)
