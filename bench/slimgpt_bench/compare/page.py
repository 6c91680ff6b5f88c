"""A comparison for people: the verdict first, then what stands behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slimgpt_bench.compare.decision import words
from slimgpt_bench.compare.ratios import QUANTITIES

_NAMES = {
    "prefill_s": "prefill",
    "ttft_s": "first token",
    "tpot_s": "per token",
    "e2e_s": "end to end",
}
_MEMORY = {
    "weights": ("file_bytes", "resident_bytes"),
    "kv": ("bytes_per_token", "token_capacity"),
    "allocator": ("peak_allocated_bytes", "peak_reserved_bytes"),
    "device": ("used_bytes",),
    "process": ("pss_bytes", "high_water_bytes"),
}
_DIGITS = 12


def page(document: Mapping[str, Any]) -> RenderableType:
    """Tables and lines of a comparison."""
    parts: list[RenderableType] = [Text("\n".join(_models(document))), _ratios(document)]
    if document["third"]:
        parts.append(_third(document))
    if document["memory"]:
        parts.append(_memory(document))
    if document["predicted"]:
        parts += [_layers(document["predicted"]), Text("\n".join(_widths(document["predicted"])))]
    lines = [*(f"note: {x}" for x in document["problems"]), _protocol(document)]
    return Group(*parts, Text("\n".join(lines)))


def _models(document: Mapping[str, Any]) -> Iterator[str]:
    for role in ("dense", "pruned", "third"):
        told = document[role]
        if told:
            quality = _quality(told["quality"])
            yield (
                f"{role:<7} {told['name']}: {told['parameters']:,} parameters, "
                f"{told['digest'][:_DIGITS]}{quality}{_made(told)}"
            )


def _quality(quality: Mapping[str, Any]) -> str:
    texts = quality.get("texts") or ()
    found = ", ".join(
        f"perplexity {text['perplexity']:.4g} ({text.get('text')}@{text.get('window')})"
        for text in texts
        if isinstance(text.get("perplexity"), int | float)
    )
    return f", {found}" if found else ", quality not measured"


def _made(told: Mapping[str, Any]) -> str:
    made = told.get("made")
    if not made:
        return ""
    dropped = ", ".join(map(str, made["dropped_layers"]))
    return (
        f"; whole layers ({dropped}) dropped: {made['decoder_parameters']:,} decoder parameters, "
        f"the pruned model has {made['decoder_parameters_of_pruned']:,}"
    )


def _ratios(document: Mapping[str, Any]) -> Table:
    predicted = document["predicted"]
    table = _of_cells("time", "dense ms", "pruned ms", "dense / pruned (95 %)", "verdict")
    if predicted:
        table.add_column("predicted", justify="right")
        table.add_column("reached", justify="right")
    for place, cell in enumerate(document["cells"]):
        for name in QUANTITIES:
            times = [_milliseconds(cell[name][role]["median"]) for role in ("dense", "pruned")]
            row = [*times, words(cell[name]), cell[name]["verdict"]]
            if predicted:
                row += _predicted(predicted["cells"][place].get(name))
            table.add_row(*_numbers(cell), _NAMES[name], *row)
    return table


def _third(document: Mapping[str, Any]) -> Table:
    """The third model beside both."""
    table = _of_cells("time", "third ms", "dense / third (95 %)", "third / pruned (95 %)", "pruned")
    for cell in document["cells"]:
        for name in QUANTITIES:
            told = cell[name]["third"]
            beside = told["pruned_against_third"]
            row = _milliseconds(told["third"]["median"]), words(told), words(beside)
            table.add_row(*_numbers(cell), _NAMES[name], *row, beside["verdict"])
    return table


def _of_cells(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("batch", "prompt", "output"):
        table.add_column(name, justify="right")
    first, *middle, last = columns
    table.add_column(first)
    for name in middle:
        table.add_column(name, justify="right")
    table.add_column(last)
    return table


def _numbers(cell: Mapping[str, Any]) -> list[str]:
    return [str(cell[k]) for k in ("batch", "prompt_tokens", "output_tokens")]


def _predicted(told: Mapping[str, Any] | None) -> list[str]:
    """The ratio, and how much of it was achieved."""
    if not told:
        return ["", ""]
    reached = told["efficiency"]
    shown = reached if isinstance(reached, str) else f"{reached:.0%}"
    return [f"{told['predicted']:.3f}", shown]


def _milliseconds(value: float | str) -> str:
    return value if isinstance(value, str) else f"{1000 * value:.3g}"


def _memory(document: Mapping[str, Any]) -> Table:
    table = Table("memory", "", box=None, pad_edge=False)
    for name in ("dense", "pruned", "ratio"):
        table.add_column(name, justify="right")
    for kind, keys in _MEMORY.items():
        told = document["memory"][kind]
        for key in keys:
            sides = [_amount(told[role].get(key), key) for role in ("dense", "pruned")]
            if "" not in sides:
                ratio = told["ratio"].get(key)
                table.add_row(
                    kind,
                    key.removesuffix("_bytes").replace("_", " "),
                    *sides,
                    "" if ratio is None else f"{ratio:.3f}",
                )
    return table


def _amount(value: float | None, key: str) -> str:
    from slimgpt.resources import human_bytes

    if value is None:
        return ""
    return human_bytes(value) if key.endswith("_bytes") else f"{value:,.0f}"


def _layers(predicted: Mapping[str, Any]) -> Table:
    """Times of layers, dense over pruned: the least ones, and those that were measured."""
    table = Table("layer", "query heads", "FFN neurons", box=None, pad_edge=False)
    first = predicted["layers"][0]
    columns = [
        (step, kind)
        for step in ("prefill_s", "decode_s")
        for kind in ("predicted", "achieved")
        if first.get(step, {}).get(kind)
    ]
    for step, kind in columns:
        table.add_column(f"{step.removesuffix('_s')} {kind}", justify="right")
    for row in predicted["layers"]:
        cells = [str(row["layer"]), _change(row, "query_heads"), _change(row, "ffn")]
        table.add_row(*cells, *(_ratio(row[step][kind]) for step, kind in columns))
    return table


def _change(row: Mapping[str, Any], key: str) -> str:
    before, after = (str(side[key]) if side else "none" for side in (row["dense"], row["pruned"]))
    return before if before == after else f"{before} → {after}"


def _ratio(told: Mapping[str, Any] | None) -> str:
    return f"{told['ratio']:.3f}" if told and told["ratio"] else ""


def _widths(predicted: Mapping[str, Any]) -> Iterator[str]:
    device, worst = predicted["device"], predicted["costliest_width"]
    yield (
        f"roofline: {device['source']}; {device['bytes_per_s'] / 1e9:.3g} GB/s; left out: "
        f"{predicted['left_out']}"
    )
    if worst is None:
        yield f"every width is a multiple of {device['tile']} values"
        return
    what = "query heads" if worst["block"] == "attention" else "FFN neurons"
    yield (
        f"costliest width: layer {worst['layer']} has {worst['width']} {what}, "
        f"{worst['wasted']} values short of a multiple of {worst['tile']}: "
        f"{1e6 * worst['prefill_s']:.3g} us of a prefill, {1e6 * worst['decode_s']:.3g} us of a "
        f"step at best; nearest {', '.join(_alternatives(worst))}"
    )
    for cost in predicted["measured_widths"]:
        shown = cost | {"interval": cost["interval"] or "insufficient"}
        yield (
            f"measured: {cost['width']} neurons take {words(shown)} of the time of "
            f"{cost['aligned']} at {cost['rows']} rows"
        )


def _alternatives(worst: Mapping[str, Any]) -> Iterator[str]:
    for other in (worst["down"], worst["up"]):
        if other:
            yield f"{other['width']} ({other['parameters']:+,} parameters)"


def _protocol(document: Mapping[str, Any]) -> str:
    how, settings, where = document["protocol"], document["settings"], document["environment"]
    name = settings.get("device_name") or where["cpu"]
    return (
        f"{how['rounds']} rounds of {' '.join(how['order'])}, each a fresh process with "
        f"{how['trials']} trials; ratio = dense time / pruned time, above 1 is faster; "
        f"{document['engine']} {settings['version']}, {settings['dtype']}, {name}, "
        f"{settings['threads']} thread{'' if settings['threads'] == 1 else 's'}"
    )
