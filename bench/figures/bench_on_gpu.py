"""Latency, memory and comparison on a GPU, in one visit: dense, pruned by 25 % and by 50 %.

    python bench/figures/bench_on_gpu.py --work /tmp/models --out /tmp/results
    python bench/figures/bench_on_gpu.py --device cpu --work ... --out ...    # a rehearsal

Random weights: times depend on widths alone. Every step is a command of ``slimgpt bench`` that
keeps its result, in order of what is needed most. Stopped by its budget or killed, the same command
goes on with the steps that are missing. On a CPU models are small, and numbers mean nothing.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from slimgpt.planning import Constraints, make_plan
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.random_model import make_random_model
from slimgpt_bench.results import read

SHAPES = {
    "1b": ModelShape(2048, 64, 32000, (LayerShape(32, 4, 5632),) * 22),
    "7b": ModelShape(4096, 128, 32000, (LayerShape(32, 32, 11008),) * 32),
    "tiny": ModelShape(256, 64, 2000, (LayerShape(4, 4, 688),) * 4),
}
RATIOS = {"dense": 0.0, "p25": 0.25, "p50": 0.5}
ALIGN = 64
CONTEXT = 2048
_DONE = (0, 3)
"""Exit codes that leave a result: 3 is one that is not to be relied on, and says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        name: of its result's folder.
        words: after ``slimgpt bench``; models by name.
    """

    name: str
    words: tuple[str, ...]


def steps(device: str, engines: tuple[str, ...]) -> Iterator[Step]:
    """All steps, what is needed most first."""
    small = device == "cpu"
    sizes = ("--prompt", "16", "--output", "8") if small else ("--prompt", "512", "--output", "64")
    batches = ("--batch", "1,2" if small else "1,8,32")
    often = ("--trials", "2", "--warmup", "1") if small else ("--trials", "5", "--warmup", "2")
    for engine in engines:
        how = ("--engine", engine, "--device", device, *batches, *sizes, *often)
        for model in RATIOS:
            runs = ("--runs", "3")
            yield Step(f"latency-{engine}-{model}", ("latency", model, *how, *runs))
        for pruned in ("p50", "p25"):
            yield Step(f"compare-{engine}-{pruned}", ("compare", "dense", pruned, *how))
    if small:
        return
    paper = ("--engine", "transformers", "--device", device, "--preset", "paper", "--warmup", "1")
    for model in RATIOS:
        yield Step(f"paper-{model}", ("latency", model, *paper))


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For the models.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="For the results.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--size", type=click.Choice(list(SHAPES)), help="[default: 1b; tiny on a CPU]")
@click.option("--budget", type=float, default=540, show_default=True, help="Seconds.")
def main(work: Path, out: Path, device: str, size: str | None, budget: float) -> None:
    """Measure, and write a folder for each step and bench_on_gpu.md to OUT."""
    deadline = time.monotonic() + budget
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    shape = SHAPES[size or ("tiny" if device == "cpu" else "1b")]
    for name, ratio in RATIOS.items():
        _make(work / name, shape, ratio, device)
    vllm = importlib.util.find_spec("vllm") is not None
    engines = ("transformers", "vllm") if vllm and device != "cpu" else ("transformers",)
    planned = list(steps(device, engines))
    left = [step.name for step in planned if not _run(step, work, out, deadline)]
    table = "\n".join(rows(out, planned)) + "\n"
    (out / "bench_on_gpu.md").write_text(table, "utf-8")
    click.echo(table)
    if left:
        click.echo(f"left for another run: {', '.join(left)}", err=True)


def _make(directory: Path, dense: ModelShape, ratio: float, device: str) -> None:
    if (directory / "config.json").exists():
        return
    target = (
        make_plan(dense, ratio, constraints=Constraints(align=ALIGN)).target if ratio else dense
    )
    make_random_model(directory, dense, target, context=CONTEXT, seed=0, device=device)


def _run(step: Step, work: Path, out: Path, deadline: float) -> bool:
    """Whether a step's result is there, now or from before."""
    kept = out / step.name
    left = deadline - time.monotonic()
    if kept.exists() or left <= 0:
        return kept.exists()
    click.echo(step.name, err=True)
    words = [str(work / x) if x in RATIOS else x for x in step.words]
    command = [sys.executable, "-P", "-m", "slimgpt", "bench", *words, "--save", str(kept)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode:
        click.echo(done.stderr, err=True)
    return done.returncode in _DONE and kept.exists()


def rows(out: Path, planned: list[Step]) -> Iterator[str]:
    """Markdown: a row for each cell of each latency, then of each comparison."""
    found = {x.name: read(out / x.name) for x in planned if (out / x.name).exists()}
    yield "| model | engine | batch | prompt + output | first token ms | per token ms | valid |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for document in found.values():
        if document["kind"] == "latency":
            yield from (_latency(document, cell) for cell in document["cells"])
    yield "\n| pruned | engine | batch | first token | per token | end to end | verdict |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for document in found.values():
        if document["kind"] == "compare":
            yield from (_compared(document, cell) for cell in document["cells"])
    yield "\n| model | engine | memory |"
    yield "|---|---|---|"
    for document in found.values():
        if document["kind"] == "latency":
            name = document["artefact"]["name"]
            yield f"| {name} | {document['engine']} | {json.dumps(document['memory'])} |"


def _latency(document: dict[str, Any], cell: dict[str, Any]) -> str:
    words = [document["artefact"]["name"], document["engine"], cell["batch"]]
    words += [f"{cell['prompt_tokens']} + {cell['output_tokens']}"]
    words += [_shown(cell[k], "median", 1000) for k in ("ttft_s", "tpot_s")]
    return f"| {' | '.join(map(str, [*words, cell['valid']]))} |"


def _compared(document: dict[str, Any], cell: dict[str, Any]) -> str:
    words = [document["pruned"]["name"], document["engine"], cell["batch"]]
    words += [_shown(cell[k], "ratio", 1) for k in ("ttft_s", "tpot_s", "e2e_s")]
    return f"| {' | '.join(map(str, [*words, cell['e2e_s']['verdict']]))} |"


def _shown(found: dict[str, Any], key: str, scale: float) -> str:
    """A number and its interval."""
    value, interval = found[key], found["interval"]
    if isinstance(value, str):
        return value
    ends = (
        interval
        if isinstance(interval, str)
        else "{:.3g} to {:.3g}".format(*(scale * x for x in interval))
    )
    return f"{scale * value:.3g} ({ends})"


if __name__ == "__main__":
    main()
