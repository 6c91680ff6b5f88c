"""The one-page summary of a job, for a terminal and for a file."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from slimgpt.compress.result import CompressResult
from slimgpt.release.card.markdown import plain
from slimgpt.resources import human_bytes

PAGE_WIDTH = 100


def summary(result: CompressResult) -> RenderableType:
    """Verdict, sizes, quality, gates and time.

    Args:
        result: of a job.
    """
    parts: list[RenderableType] = [Text(_verdict(result), style="bold"), _sizes(result)]
    if result.recovery:
        parts.append(Text(_recovered(result.recovery)))
    if result.judgement.get("texts"):
        parts.append(_texts(result))
    if result.judgement.get("tasks"):
        parts.append(_tasks(result))
    if result.gates:
        parts.append(_gates(result))
    parts += [Text(f"NOT MADE {e.out}: {e.error}") for e in result.exports if e.error]
    parts.append(Text(_time(result)))
    return Group(*parts)


def as_text(result: CompressResult) -> str:
    """The page as plain text."""
    console = Console(file=StringIO(), width=PAGE_WIDTH, highlight=False, markup=False, emoji=False)
    console.print(summary(result))
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in written.splitlines()) + "\n"


def _verdict(result: CompressResult) -> str:
    if result.passed:
        gates = (
            f"{len(result.gates)} of {len(result.gates)} gates met"
            if result.gates
            else ("no gates in the recipe")
        )
        made = [str(export.out) for export in result.exports if export.made]
        exported = f", exported to {', '.join(made)}" if made else ""
        pushed = f", pushed to {result.pushed}" if result.pushed else ""
        return f"RELEASED {result.out} ({gates}){exported}{pushed}"
    missed = sum(not gate.passed for gate in result.gates)
    return (
        f"NOT RELEASED: {missed} of {len(result.gates)} gates missed. The candidate is "
        f"{result.candidate}; {result.out} was not made."
    )


def _sizes(result: CompressResult) -> Table:
    before, after = result.plan.source, result.plan.target
    size = result.bytes_per_value
    rows = [
        ("parameters", before.parameters, after.parameters, "{:,}".format),
        ("decoder parameters", before.decoder_parameters, after.decoder_parameters, "{:,}".format),
        ("weight bytes", before.weight_bytes(size), after.weight_bytes(size), human_bytes),
        (
            "KV bytes a token",
            before.kv_bytes_per_token(size),
            after.kv_bytes_per_token(size),
            "{:,}".format,
        ),
    ]
    plan = result.plan
    title = f"{plan.achieved:.2%} of the decoder removed ({plan.ratio:.2%} asked)"
    table = Table(
        "", plain(Path(result.model).name or result.model), "result", "ratio", title=title
    )
    for name, old, new, shown in rows:
        table.add_row(name, shown(old), shown(new), f"{new / old:.3f}" if old else "")
    return table


def _recovered(recovery: Any) -> str:
    from slimgpt.evaluate.perplexity import perplexity

    loss, merged = recovery["held_out_loss"], recovery["merged"]
    before, after = (perplexity(loss[when]) for when in ("before", "after"))
    return (
        f"recovery: held-out perplexity {before:.3f} became {after:.3f} "
        f"(best at step {recovery['best_step']} of {recovery['steps']}); merged weights within "
        f"{merged['largest_logit_difference']:.3g} of the adapter's logits"
    )


def _texts(result: CompressResult) -> Table:
    table = Table("text", "protocol", "dense", "result", "change", "KL, nats/token")
    for text in result.judgement["texts"]:
        before, after = text["baseline_perplexity"], text["perplexity"]
        change = f"{after / before - 1:+.2%}" if before and after else ""
        table.add_row(
            plain(text["text"]),
            f"{text['protocol']}, {text['window']} tokens, {text['dtype']}",
            _number(before, ".3f"),
            _number(after, ".3f"),
            change,
            _number(text["kl"], ".4f"),
        )
    table.caption = "perplexity; numbers of different windows are different quantities"
    return table


def _tasks(result: CompressResult) -> Table:
    table = Table("task", "n", "dense acc", "acc", "dense acc_norm", "acc_norm")
    for name, scores in result.judgement["tasks"].items():
        dense = scores.get("baseline") or {}
        columns = (_with_error(s, key) for key in ("acc", "acc_norm") for s in (dense, scores))
        table.add_row(plain(name), f"{scores['n']:,}", *columns)
    if accuracy := result.judgement.get("accuracy"):
        table.caption = (
            f"mean {accuracy['metric']} {_number(accuracy['baseline_mean'], '.4f')} became "
            f"{_number(accuracy['mean'], '.4f')}: ratio {_number(accuracy['ratio'], '.4f')}, at "
            f"least {_number(accuracy['lower'], '.4f')} with confidence {accuracy['confidence']}"
        )
    return table


def _with_error(scores: Any, key: str) -> str:
    value, error = scores.get(key), scores.get(f"{key}_stderr")
    if value is None:
        return ""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def _gates(result: CompressResult) -> Table:
    table = Table("gate", "measured", "limit", "margin", "")
    for gate in result.gates:
        table.add_row(
            plain(gate.name),
            _number(gate.measured, ".5g") or "not measured",
            f"{gate.bound} {gate.limit:g}",
            _number(gate.margin, "+.3g"),
            "met" if gate.passed else "MISSED",
        )
    return table


def _time(result: CompressResult) -> str:
    return (
        ", ".join(_stage_times(result))
        + f"; {result.seconds:.1f} s in all, peak memory {human_bytes(result.peak_rss_bytes)}"
    )


def _stage_times(result: CompressResult) -> Iterator[str]:
    for name, seconds in result.stage_seconds.items():
        earlier = " (in an earlier run)" if name in result.reused else ""
        yield f"{name} {seconds:.1f} s{earlier}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
