"""A result as rows of one table: a row for each quantity of each cell or level, with its unit."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slimgpt_bench.results.quality_words import in_words

_WHERE = ("batch", "prompt_tokens", "output_tokens", "rate_rps", "concurrency")
_SPREADS = ("", "p95_", "p99_")
COLUMNS = (
    *("kind", "valid", "engine", "device", "artefact", "artefact_digest", "quality"),
    *("workload_digest", *_WHERE, "quantity", "unit", "value", "low", "high"),
    *("p95", "p95_low", "p95_high", "p99", "p99_low", "p99_high", "n", "label", "verdict"),
)
_UNITS = {
    "tokens_per_s": "tokens/s",
    "bytes_per_token": "bytes/token",
    "rps": "requests/s",
    "bytes": "bytes",
    "s": "s",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = dict[str, Any]


def write_table(path: Path, document: Mapping[str, Any]) -> None:
    """Writes ``result.csv``, where a text that a spreadsheet would run gets an apostrophe."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows(document):
            writer.writerow({k: _inert(v) for k, v in row.items()})


def rows(document: Mapping[str, Any]) -> Iterator[Row]:
    """Every measured or planned number of a document, each with the model it is of."""
    base = {
        "kind": document["kind"],
        "valid": document["valid"],
        "engine": document.get("engine", ""),
        "device": document["environment"].get("device", ""),
        "workload_digest": document["workload"]["digest"],
    }
    match document["kind"]:
        case "compare":
            yield from _compared(document, base)
        case "quality":
            for judged in document["models"]:
                yield from _judged(judged, base | _model(judged["artefact"]))
        case "capacity":
            yield from _labelled(document, base, "")
        case _:
            yield from _measured(document, base | _model(document["artefact"]))


def unit_of(name: str) -> str:
    """The unit that a name ends in; none for a count or a share.

    >>> unit_of("ttft_s"), unit_of("output_tokens_per_s"), unit_of("n")
    ('s', 'tokens/s', '')
    """
    return next((unit for end, unit in _UNITS.items() if name.endswith(f"_{end}")), "")


def is_quantity(value: Any) -> bool:
    """Whether a value of a document is a measured quantity."""
    return isinstance(value, Mapping) and {"median", "interval", "n"} <= set(value)


def _model(artefact: Mapping[str, Any] | None) -> Row:
    if artefact is None:
        return {}
    return {
        "artefact": artefact["name"],
        "artefact_digest": artefact["digest"],
        "quality": in_words(artefact["quality"]),
    }


def _measured(document: Mapping[str, Any], base: Row) -> Iterator[Row]:
    for cell in document.get("cells") or document.get("levels") or ():
        here = base | _place(cell) | {"valid": document["valid"] and cell["valid"]}
        for name, value in cell.items():
            if is_quantity(value):
                yield here | _quantity(name, value)
        yield from _rates(cell, here)
    yield from _memory(document.get("memory") or {}, base)


def _rates(cell: Mapping[str, Any], here: Row) -> Iterator[Row]:
    requests = cell["requests"]
    yield here | {"quantity": "requests.sent", "value": requests["sent"]}
    yield here | {"quantity": "requests.ok", "value": requests["ok"]}
    for name in ("achieved_rps", "goodput_rps", "output_tokens_per_s"):
        if cell.get(name) is not None:
            ends = cell.get("goodput_interval") if name == "goodput_rps" else None
            found = {"quantity": name, "unit": unit_of(name), "value": cell[name]}
            yield here | found | _ends("", ends)
    if share := cell.get("attainment"):
        found = {"quantity": "attainment", "value": share["value"], "n": share["n"]}
        yield here | found | _ends("", share["interval"])


def _judged(judged: Mapping[str, Any], base: Row) -> Iterator[Row]:
    for text in judged["texts"]:
        where = f"{text['text']} (window {text['window']}, {text['protocol']})"
        for name in ("perplexity", "baseline_perplexity", "kl"):
            if text[name] is not None:
                yield base | {
                    "quantity": f"{name} of {where}",
                    "unit": "nats/token" if name == "kl" else "",
                    "value": text[name],
                    "n": text["tokens"],
                }


def _compared(document: Mapping[str, Any], base: Row) -> Iterator[Row]:
    models = {side: _model(document[side]) for side in ("dense", "pruned", "third")}
    for cell in document["cells"]:
        here = base | _place(cell)
        for name, found in cell.items():
            if not isinstance(found, Mapping) or "verdict" not in found:
                continue
            for side in ("dense", "pruned"):
                yield here | models[side] | _quantity(name, found[side])
            yield here | models["pruned"] | _ratio(f"{name}.dense_over_pruned", found)
            if third := found["third"]:
                yield here | models["third"] | _quantity(name, third["third"])
                yield here | models["third"] | _ratio(f"{name}.dense_over_third", third)
                beside = third["pruned_against_third"]
                yield here | models["pruned"] | _ratio(f"{name}.third_over_pruned", beside)
    for kind, entry in document["memory"].items():
        for side in ("dense", "pruned", "third"):
            if models.get(side) and isinstance(entry.get(side), Mapping):
                yield from _memory({kind: entry[side]}, base | models[side])


def _ratio(name: str, told: Mapping[str, Any]) -> Row:
    row = {"quantity": name, "value": told["ratio"], "verdict": told["verdict"]}
    return row | _ends("", told["interval"])


def _memory(memory: Mapping[str, Mapping[str, Any]], base: Row) -> Iterator[Row]:
    for kind, entries in memory.items():
        for name, value in entries.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield base | {
                    "quantity": f"memory.{kind}.{name}",
                    "unit": unit_of(f"_{name}"),
                    "value": value,
                }


def _labelled(value: Any, base: Row, path: str) -> Iterator[Row]:
    """Planned numbers, wherever they stand in a document."""
    if not isinstance(value, Mapping):
        return
    if {"value", "unit", "label"} <= set(value):
        told = {k: value[k] for k in ("value", "unit", "label")}
        yield base | told | {"quantity": path}
        return
    of = base | _model(value["artefact"]) if value.get("artefact") else base
    for name, entry in value.items():
        yield from _labelled(entry, of, f"{path}.{name}" if path else str(name))


def _place(cell: Mapping[str, Any]) -> Row:
    found = {**cell, **(cell.get("offered") or {})}
    return {name: found[name] for name in _WHERE if name in found}


def _quantity(name: str, value: Mapping[str, Any]) -> Row:
    row = {"quantity": name, "unit": unit_of(name), "value": value["median"], "n": value["n"]}
    for spread in _SPREADS:
        if spread:
            row[spread[:-1]] = value.get(spread[:-1], "")
        row |= _ends(spread, value.get(f"{spread}interval"))
    return row


def _ends(spread: str, ends: Any) -> Row:
    if ends is None:
        return {}
    low, high = (ends, ends) if isinstance(ends, str) else ends
    return {f"{spread}low": low, f"{spread}high": high}


def _inert(value: Any) -> Any:
    risky = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if risky else value
