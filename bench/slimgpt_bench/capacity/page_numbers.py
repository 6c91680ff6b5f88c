"""The numbers that decide a plan, each with what it rests on, as a short table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from slimgpt.resources import human_bytes
from slimgpt_bench.capacity.number import plain

_UNKNOWN = "not known"
_ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("traffic at the peak", ("traffic", "peak_rps")),
    ("demand, with its margins", ("plan", "demand_rps")),
    ("rate of a replica, sure", ("replica", "rate_rps", "lower")),
    ("rate of a replica, likely", ("replica", "rate_rps", "point")),
    ("rate of a replica, too high", ("replica", "rate_rps", "upper")),
    ("replicas, with spares", ("plan", "planned_replicas")),
    ("what each bears", ("plan", "per_replica_rps")),
    ("weights", ("replica", "weight_bytes")),
    ("KV cache", ("replica", "kv_bytes")),
    ("KV cache of a token", ("replica", "kv_bytes_per_token")),
    ("tokens in the KV cache", ("replica", "kv_tokens")),
    ("tokens of a request under way", ("replica", "tokens_held")),
    ("sequences at once", ("replica", "concurrent")),
    ("sequences at once, at most", ("replica", "max_sequences")),
    ("TTFT, no engine is faster", ("replica", "ttft_floor_s")),
    ("TPOT, no engine is faster", ("replica", "tpot_floor_s")),
    ("price of an accelerator", ("money", "price_per_accelerator_hour")),
)

Document = Mapping[str, Any]


def numbers_table(document: Document) -> Table:
    """A row for each number that a planner argues with."""
    table = Table(box=None, pad_edge=False)
    table.add_column("number", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    for name in ("", "rests on"):
        table.add_column(name, no_wrap=True)
    table.add_column("from")
    for name, number in _chosen(document):
        table.add_row(name, *_value(number), number["label"], number["source"])
    return table


def _chosen(document: Document) -> Iterator[tuple[str, Document]]:
    for name, path in _ROWS:
        found: Any = document
        for key in path:
            found = (found or {}).get(key)
        if found:
            yield name, found
    for name, number in document["replica"]["utilisation"].items():
        yield f"{name}, in use", number


def _value(number: Document) -> tuple[str, str]:
    value, unit = number["value"], number["unit"]
    if isinstance(value, str):
        return said(value), unit
    if unit == "B":
        return human_bytes(value), ""
    return (f"{value:.1%}", "") if unit == "share" else (plain(value), unit)


def said(number: Document | float | str) -> str:
    """A number, or that it is not known."""
    value = number["value"] if isinstance(number, Mapping) else number
    if isinstance(value, str):
        return _UNKNOWN if value == "insufficient" else value
    return plain(value)
