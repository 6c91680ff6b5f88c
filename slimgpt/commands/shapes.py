"""Shapes as people and programs read them: the tables and documents of ``plan`` and ``inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from slimgpt.planning import Plan
from slimgpt.resources import human_bytes
from slimgpt.shape import ModelShape

PREFILL_TOKENS = 512


def totals(shape: ModelShape, bytes_per_value: int) -> dict[str, int]:
    """Sizes and costs of a shape, in units that the keys name."""
    return {
        "parameters": shape.parameters,
        "decoder_parameters": shape.decoder_parameters,
        "weight_bytes": shape.weight_bytes(bytes_per_value),
        "kv_bytes_per_token": shape.kv_bytes_per_token(bytes_per_value),
        f"prefill_{PREFILL_TOKENS}_flops": shape.prefill_flops(PREFILL_TOKENS),
        f"decode_at_{PREFILL_TOKENS}_flops": shape.decode_flops(PREFILL_TOKENS),
    }


def totals_table(columns: Sequence[tuple[str, ModelShape]], bytes_per_value: int) -> Table:
    """Totals of several shapes side by side, and the last as a share of the first."""
    table = Table("", *(name for name, _ in columns), title="totals")
    if len(columns) > 1:
        table.add_column("share", justify="right")
    values = [totals(shape, bytes_per_value) for _, shape in columns]
    for key in values[0]:
        row = [_readable(key, v[key]) for v in values]
        if len(columns) > 1:
            row.append(f"{values[-1][key] / values[0][key]:.1%}")
        table.add_row(key.removesuffix("_bytes").replace("_", " "), *row)
    return table


def _readable(key: str, value: int) -> str:
    if key == "weight_bytes":
        return human_bytes(value)
    if key == "kv_bytes_per_token":
        return f"{value:,} B"
    if key.endswith("flops"):
        return f"{value:.3g}"
    return f"{value:,}"


def layer_table(shape: ModelShape, plan: Plan | None = None) -> Table:
    """Widths of every layer, before and after where there is a plan that keeps all layers."""
    if plan and len(plan.source.layers) != len(shape.layers):
        plan = None  # which layers go is found when the model runs
    table = Table("layer", "query heads", "KV heads", "FFN neurons", "parameters")
    if plan:
        table.add_column("removed", justify="right")
    before = plan.source.layers if plan else shape.layers
    for i, (old, new) in enumerate(zip(before, shape.layers, strict=True)):
        size = shape.layer_parameters(new)
        row = [
            str(i),
            _change(old.query_heads, new.query_heads),
            _change(old.kv_heads, new.kv_heads),
            _change(old.ffn, new.ffn),
            f"{size:,}",
        ]
        if plan:
            row.append(f"{1 - size / shape.layer_parameters(old):.1%}")
        table.add_row(*row)
    return table


def _change(old: int, new: int) -> str:
    return str(new) if old == new else f"{old} → {new}"


def shape_document(shape: ModelShape, bytes_per_value: int) -> dict[str, Any]:
    """The shape and its totals, for ``--json``."""
    return {"shape": shape.to_manifest(), "totals": totals(shape, bytes_per_value)}
