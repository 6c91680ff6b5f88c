"""Capacity plans: what has to be bought, why, and how far each number may be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimgpt_bench.accelerators import HERE
from slimgpt_bench.intervals import INSUFFICIENT
from slimgpt_bench.report.blocks import Block, Cell, Heading, Mark, Section, Table
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.cells import machine, scaled
from slimgpt_bench.report.sections.drawn import name_of
from slimgpt_bench.report.told import number, seconds_unit, size

_LABELS: Mapping[str, Mark] = {"measured": "good", "modelled": "unsure", "assumed": "unsure"}
_PARTS = ("plan", "money", "difference", "replica", "traffic", "baseline")
_NAMES = {
    "plan": "Plan",
    "replica": "One replica",
    "money": "Money",
    "difference": "Saved against the dense model",
    "traffic": "Traffic",
    "baseline": "The dense model's plan",
}
_SPELT = {"kv": "KV", "ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "end to end"}
_BOUNDS = ("lower", "point", "upper")


def capacity(pages: Pages) -> Section | None:
    """A part for each plan."""
    blocks: list[Block] = []
    for document in pages.of("capacity"):
        blocks += _part(pages, document)
    lead = (
        "Every number says what it rests on: measured on the very thing, modelled from it, or "
        "assumed. What is computed from a replica's rate has the label of that rate: traffic, "
        "margins and prices are assumed where they stand. Lower and upper are what the measured "
        "intervals leave open."
    )
    return Section("capacity", "Capacity", tuple(blocks), lead) if blocks else None


def accelerator(document: Mapping[str, Any]) -> str:
    """Its name; of the machine that was measured, where that is what was planned on."""
    told = document["accelerator"]
    return machine(document) if told.get("name") == HERE else str(told.get("name"))


def _part(pages: Pages, document: Mapping[str, Any]) -> list[Block]:
    name = name_of(pages, document)
    objectives = (document["slo"].get("objectives") or {}).items()
    slo = ", ".join(f"{_words(k)} ≤ {number(float(v))} s" for k, v in objectives)
    share = document["slo"].get("attainment")
    blocks: list[Block] = [
        Heading(f"{name} on {accelerator(document)}", f"{slo} for {number(share)} of all requests")
    ]
    for part in _PARTS:
        rows = [row for path, value in _numbers(document[part]) for row in _row(path, value)]
        if rows:
            header = ("Number", "Lower", "Point", "Upper", "Unit", "Rests on", "Source")
            words = frozenset({4, 5, 6})
            folded = part in ("traffic", "baseline")
            blocks.append(Table(_NAMES[part], header, tuple(rows), words, folded))
    return [*blocks, *_verification(document["verification"])]


def _numbers(told: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Labelled numbers, and bounds as one, wherever they stand."""
    if not isinstance(told, Mapping):
        return
    if {"label", "value"} <= set(told) or set(_BOUNDS) <= set(told):
        yield path, told
        return
    for name, value in told.items():
        if name not in ("artefact", "evidence", "problems"):
            yield from _numbers(value, f"{path}, {_words(name)}" if path else _words(name))


def _row(path: str, told: Mapping[str, Any]) -> Iterator[tuple[str | Cell, ...]]:
    if "value" in told:
        values: tuple[Any, ...] = ("", told, "")
        first = told
    else:
        values = tuple(told[k] for k in _BOUNDS)
        first = told["point"]
    if not isinstance(first, Mapping):
        return
    label = str(first.get("label"))
    yield (
        path[:1].upper() + path[1:],
        *(_amount(x) if isinstance(x, Mapping) else "" for x in values),
        _unit(first),
        Cell(label, mark=_LABELS.get(label, "unsure")),
        str(first.get("source") or ""),
    )


def _unit(told: Mapping[str, Any]) -> str:
    """Bytes have theirs beside each number; short times are shown in milliseconds."""
    if told.get("unit") == "s":
        return seconds_unit([told.get("value")]).name
    return "" if told.get("unit") == "B" else str(told.get("unit") or "")


def _amount(told: Mapping[str, Any]) -> str:
    value = told.get("value")
    if value == INSUFFICIENT:  # a bound that was not reached is no want of samples
        return "not known"
    if told.get("unit") == "B":
        return size(value)
    if told.get("unit") == "s":
        return scaled(value, seconds_unit([value]))
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return number(int(value))
    return str(value) if isinstance(value, str) else scaled(value)


def _words(name: str) -> str:
    words = name.removesuffix("_rps").removesuffix("_s").split("_")
    return " ".join(_SPELT.get(word, word) for word in words)


def _verification(told: Mapping[str, Any] | None) -> list[Block]:
    if not told:
        return []
    names = [x for x in told.get("predicted") or {} if x in (told.get("measured") or {})]
    rows = [
        (
            _words(name),
            scaled(told["predicted"][name]),
            scaled(told["measured"][name]),
            scaled((told.get("error") or {}).get(name)),
        )
        for name in names
    ]
    header = ("Quantity", "Predicted", "Measured", "Relative error")
    said = f"Verification at {number(told.get('rate_rps'))} requests/s: {told.get('resolution')}"
    return [Table(said, header, tuple(rows))] if rows else []
