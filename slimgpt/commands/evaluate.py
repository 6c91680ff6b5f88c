"""``slimgpt evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Group, RenderableType
from rich.table import Table

from slimgpt.commands.console import Console, common, device_options, seed_option
from slimgpt.errors import UsageError

if TYPE_CHECKING:
    from slimgpt.evaluate.judge import Judgement

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@click.option(
    "--text",
    "texts",
    type=_PATH,
    multiple=True,
    help="What to score: a .txt, .jsonl or .json file; may be given several times.",
)
@click.option(
    "--tasks",
    multiple=True,
    help="Multiple choice and more, with commas between: names of lm-eval, or .jsonl files of "
    "{question, choices, label}.",
)
@click.option(
    "--task-data", type=_PATH, help="A folder with NAME*.jsonl for names of --tasks, offline."
)
@click.option(
    "--num-fewshot", type=int, help="Worked examples in front; MMLU has 5 and others none."
)
@click.option(
    "--limit", type=int, help="Only the first examples of each task (of each subtask, in a group)."
)
@click.option("--batch-size", type=int, default=16, show_default=True, help="Task texts at a time.")
@click.option(
    "--baseline",
    help="The dense model: for KL(dense || MODEL) at every token, and the ratio of accuracies.",
)
@click.option(
    "--window", type=int, default=128, show_default=True, help="Tokens in a disjoint window."
)
@click.option(
    "--protocol",
    type=click.Choice(["raw", "paper"]),
    default="raw",
    show_default=True,
    help="raw scores the file as it is; paper joins its lines by blank lines and puts one BOS in "
    "front, as the paper does with WikiText-2.",
)
@device_options
@seed_option
@common
def evaluate(
    console: Console,
    model: str,
    texts: tuple[Path, ...],
    tasks: tuple[str, ...],
    task_data: Path | None,
    num_fewshot: int | None,
    limit: int | None,
    batch_size: int,
    baseline: str | None,
    window: int,
    protocol: Any,
    device: str,
    dtype: str,
    seed: int,
) -> None:
    """Perplexity and accuracy of MODEL, and its divergence from the dense model.

    MODEL may be an ONNX export too, and so may the baseline: they run on ONNX Runtime.
    Numbers of different windows are different quantities: the protocol stands beside each.
    """
    from slimgpt.checkpoint.locate import locate
    from slimgpt.evaluate.judge import TaskOptions, TextSpec, judge

    if not texts and not tasks:
        raise UsageError("nothing to evaluate: give --text FILE, --tasks NAMES or both")
    names = tuple(name.strip() for given in tasks for name in given.split(","))
    judgement = judge(
        locate(model),
        locate(baseline) if baseline else None,
        [TextSpec(path, window, protocol, path.name) for path in texts],
        TaskOptions(names, task_data, num_fewshot, limit, batch_size) if tasks else None,
        device=device,
        dtype=dtype,
        seed=seed,
        progress=console,
    )
    console.result(_document(judgement), Group(*_rendered(judgement, model, baseline)))


def _document(judgement: Judgement) -> dict[str, Any]:
    """The first text stands in front, as INTERFACE.md has it."""
    record = judgement.to_json()
    document = judgement.texts[0].quality.to_json() if judgement.texts else {}
    if len(judgement.texts) > 1:
        document["texts"] = record["texts"]
    if judgement.tasks:
        document["tasks"] = record["tasks"]
    if judgement.accuracy:
        document["accuracy"] = record["accuracy"]
    return document | {"dtype": judgement.dtype, **judgement.runtime}


def _rendered(judgement: Judgement, model: str, baseline: str | None) -> Iterator[RenderableType]:
    record = judgement.to_json()
    for text in record["texts"]:
        yield _text_table(text, model, baseline)
    if runtime := judgement.runtime:
        yield f"{model}: {runtime['precision']} by {runtime['engine']} on {runtime['provider']}"
    if record["tasks"]:
        yield _task_table(record, baseline)
        for name, task in record["tasks"].items():
            yield f"{name}: {task['protocol']}; {_counts(task)}"
    if "accuracy" in record:
        yield _verdict(record["accuracy"])


def _text_table(text: dict[str, Any], model: str, baseline: str | None) -> Table:
    table = Table("", "perplexity", "KL to dense", title=f"{text['text']}: {text['how']}")
    if baseline:
        table.add_row(baseline, _perplexity(text["baseline_perplexity"]), "0")
    divergence = "" if text["kl"] is None else f"{max(text['kl'], 0):.4f} nats/token"
    table.add_row(model, _perplexity(text["perplexity"]), divergence)
    table.caption = f"{text['tokens']:,} tokens scored, computed in {text['dtype']}"
    return table


def _perplexity(value: float | None) -> str:
    return "beyond 1e304" if value is None else f"{value:.2f}"


def _task_table(record: dict[str, Any], baseline: str | None) -> Table:
    table = Table("task", "examples", "acc", "acc_norm")
    if baseline:
        table.add_column("dense acc")
        table.add_column("dense acc_norm")
    for name, task in record["tasks"].items():
        row = [name, f"{task['n']:,}", *_figures(task)]
        table.add_row(*row, *(_figures(task["baseline"]) if baseline else ()))
    harness = next(iter(record["tasks"].values()))["harness"]
    table.caption = f"± one standard error; {harness}"
    return table


def _figures(task: dict[str, Any]) -> list[str]:
    """acc and acc_norm in per cent, or in their place what a task without choices measures."""
    if "metrics" in task:
        shown = [f"{k} {_with_error(m['value'], m['stderr'])}" for k, m in task["metrics"].items()]
        return ["\n".join(shown), ""]
    return [
        _with_error(task["acc"], task["acc_stderr"], 100, " %"),
        _with_error(task["acc_norm"], task["acc_norm_stderr"], 100, " %"),
    ]


def _with_error(
    value: float | None, error: float | None, scale: float = 1.0, unit: str = ""
) -> str:
    if value is None:
        return "—"
    spread = "" if error is None else f" ± {error * scale:.2f}"
    return f"{value * scale:.2f}{spread}{unit}"


def _counts(task: dict[str, Any]) -> str:
    shots = "shots as each subtask has them" if task["num_fewshot"] is None else ""
    parts = [shots or f"{task['num_fewshot']}-shot", f"seed {task['seed']}", task["dtype"]]
    if task["limit"] is not None:
        parts.append(f"the first {task['limit']} examples")
    if task["truncated"]:
        parts.append(f"{task['truncated']} of {task['n']} cut to fit the context")
    return ", ".join(parts)


def _verdict(accuracy: dict[str, Any]) -> str:
    """The ratio of mean accuracies with its interval, or why it has none."""
    means = f"mean acc {accuracy['mean']:.2%} of {accuracy['baseline_mean']:.2%} dense"
    if accuracy["ratio"] is None:
        return f"{means}: no ratio, {accuracy['why']}"
    ratio = f"{means}: ratio {accuracy['ratio']:.3f}"
    if accuracy["interval"] is None:
        return f"{ratio}, without bounds: {accuracy['why']}"
    low, high = accuracy["interval"]
    return (
        f"{ratio}, {accuracy['confidence']:.0%} interval {low:.3f} to {high:.3f}, "
        f"at least {accuracy['lower']:.3f} (one-sided)"
    )
