"""What opening an ONNX export costs: seconds and memory, with and without prepacking.

    python bench/figures/onnx_load.py DIR...

Every line is a process of its own. Memory is of the process beyond that of the libraries: `private`
is its own, `mapped` are pages of the weights' file, which the system may drop and read again. It is
read before and after a prompt of 64 tokens, since weights are only touched then.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import click

from slimgpt.resources import human_bytes
from slimgpt_serve.onnx_runtime.artefact import read_artefact
from slimgpt_serve.onnx_runtime.generator import runner_of
from slimgpt_serve.onnx_runtime.session import open_session

_PROMPT, _STEPS = 64, 16


@click.command()
@click.argument("exports", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--threads", default=1, show_default=True)
@click.option("--repeat", default=3, show_default=True, help="Medians of so many processes.")
def main(exports: tuple[Path, ...], threads: int, repeat: int) -> None:
    """Measure, and print Markdown."""
    click.echo(
        "| export | prepacking | load s | private, mapped after load | after a prompt | decode ms |"
    )
    click.echo("|---|---|---:|---:|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for export in exports:
        for prepack in (True, False):
            runs = []
            for _ in range(repeat):
                with context.Pool(1) as pool:
                    runs.append(pool.apply(measure, (export, prepack, threads)))
            load = statistics.median(run.load_s for run in runs)
            step = statistics.median(run.step_ms for run in runs)
            click.echo(
                f"| {export.name} | {'yes' if prepack else 'no'} | {load:.2f} | "
                f"{_pair(runs[-1].loaded)} | {_pair(runs[-1].prompted)} | {step:.2f} |"
            )


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process.

    Attributes:
        load_s: seconds until a session is there.
        loaded: private and mapped bytes then.
        prompted: the same after a prompt.
        step_ms: of decoding a token.
    """

    load_s: float
    loaded: tuple[int, int]
    prompted: tuple[int, int]
    step_ms: float


def measure(export: Path, prepack: bool, threads: int) -> Cost:
    """Opens an export, reads a prompt and goes on from it."""
    artefact = read_artefact(export)
    before = memory()
    started = time.perf_counter()
    session = open_session(artefact, device="cpu", threads=threads, prepack=prepack)
    load = time.perf_counter() - started
    loaded = memory()
    runner = runner_of(session, _PROMPT + _STEPS, 1)
    runner.prefill(0, list(range(3, 3 + _PROMPT)))
    prompted = memory()
    started = time.perf_counter()
    for step in range(_STEPS):
        runner.decode([5], [_PROMPT + step])
    step_ms = 1000 * (time.perf_counter() - started) / _STEPS
    return Cost(load, _beyond(loaded, before), _beyond(prompted, before), step_ms)


def memory() -> tuple[int, int]:
    """Bytes of this process: private ones, and mapped pages of files."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines()
    )
    private, mapped = (int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssFile"))
    return private, mapped


def _beyond(after: tuple[int, int], before: tuple[int, int]) -> tuple[int, int]:
    return after[0] - before[0], after[1] - before[1]


def _pair(found: tuple[int, int]) -> str:
    return ", ".join(human_bytes(max(0, x)) for x in found)


if __name__ == "__main__":
    main()
