"""The tables of a card: quality, tasks and gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimgpt.release.card.markdown import inline, table


def results_sections(manifest: Mapping[str, Any]) -> Iterator[str]:
    """A section for each thing that was measured.

    Args:
        manifest: its ``quality`` and ``gates``.
    """
    quality = manifest["quality"]
    if quality.get("texts"):
        yield _texts(quality["texts"])
    if loss := (quality.get("recovery") or {}).get("held_out_loss"):
        yield (
            "## Recovery\n\nLoss on the examples kept back, in nats a token: "
            f"{_number(loss.get('before'))} before, {_number(loss.get('after'))} after.\n"
        )
    if quality.get("tasks"):
        yield _tasks(quality["tasks"]) + _accuracy(quality.get("accuracy"))
    if manifest.get("gates"):
        yield _gates(manifest["gates"])


def _texts(texts: list[Mapping[str, Any]]) -> str:
    header = ("text", "window", "protocol", "dense", "this", "change", "KL to dense")
    rows = [
        (
            text["text"],
            text["window"],
            text["protocol"],
            _number(text.get("baseline_perplexity")),
            _number(text["perplexity"]),
            _change(text["perplexity"], text.get("baseline_perplexity")),
            _number(text.get("kl")),
        )
        for text in texts
    ]
    ways = dict.fromkeys(
        f"; {inline(text['protocol'])}: {inline(text['how'])}" for text in texts if text.get("how")
    )
    return (
        f"## Perplexity\n\n{table(header, rows)}\nLower is better; KL(dense \u2016 this) in nats a "
        "token. Numbers of different windows or protocols are different quantities"
        f"{''.join(ways)}.\n"
    )


def _tasks(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [row for name, task in tasks.items() for row in _task_rows(name, task)]
    header = ("task", "metric", "dense", "this", "standard error", "questions", "shots")
    notes = dict.fromkeys(
        f"{inline(task['protocol'])} ({inline(task.get('harness'))}, seed {task.get('seed')})"
        for task in tasks.values()
        if task.get("protocol")
    )
    how = "".join(f"- {note}\n" for note in notes)
    return f"## Tasks\n\n{table(header, rows)}" + (f"\n{how}" if how else "")


def _task_rows(name: str, task: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    baseline = task.get("baseline") or {}
    end = task.get("n", ""), "" if task.get("num_fewshot") is None else task["num_fewshot"]
    for metric in ("acc", "acc_norm"):
        if task.get(metric) is not None:
            error = _number(task.get(f"{metric}_stderr"))
            yield name, metric, _number(baseline.get(metric)), _number(task[metric]), error, *end
    before = baseline.get("metrics") or {}
    for metric, value in (task.get("metrics") or {}).items():
        dense = _number((before.get(metric) or {}).get("value"))
        error = _number(value.get("stderr"))
        yield name, metric, dense, _number(value.get("value")), error, *end


def _accuracy(accuracy: Mapping[str, Any] | None) -> str:
    if not accuracy or accuracy.get("ratio") is None:
        return ""
    low, high = map(_number, accuracy.get("interval") or (None, None))
    sure, least = f"{accuracy['confidence']:.0%}", _number(accuracy.get("lower"))
    interval = ""
    if low:
        interval = f" (at least {least} with {sure} confidence; two-sided, {low} to {high})"
    return (
        f"\nMean {inline(accuracy['metric'])} over {accuracy['tasks']} tasks: "
        f"{_number(accuracy['mean'])}, of the dense model {_number(accuracy['baseline_mean'])}. "
        f"Their ratio is {_number(accuracy['ratio'])}{interval}, from {accuracy['n']:,} questions."
        "\n"
    )


def _gates(gates: list[Mapping[str, Any]]) -> str:
    header = ("gate", "measured", "limit", "margin", "unit", "verdict")
    rows = [
        (
            gate["name"],
            _number(gate["measured"]),
            _number(gate["limit"]),
            _number(gate["margin"]),
            gate["unit"],
            "passed" if gate["passed"] else f"missed: {gate['why']}".removesuffix(": "),
        )
        for gate in gates
    ]
    return f"## Gates\n\n{table(header, rows)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _change(value: float | None, dense: float | None) -> str:
    return f"{value / dense - 1:+.1%}" if value is not None and dense else ""
