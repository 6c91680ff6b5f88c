"""``slimgpt bench latency`` from its options to its document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slimgpt.errors import SlimGPTError, Unresolved, UsageError
from slimgpt.progress import Progress, stage
from slimgpt.resources import resolve_device
from slimgpt_bench.artefact import Artefact, describe
from slimgpt_bench.latency.cells import Cell, LatencyOptions, make_cells, require_context, workload
from slimgpt_bench.latency.document import cell_document
from slimgpt_bench.latency.memory import measure_memory
from slimgpt_bench.latency.process import Worker
from slimgpt_bench.latency.trials import Trials
from slimgpt_bench.provenance import environment
from slimgpt_bench.results import envelope
from slimgpt_serve.preflight.installed import installed_vllm, platform_of, require_vllm
from slimgpt_serve.preflight.limits import context_of

PAPER = "paper"
"""SlimGPT (arXiv 2412.18110) measures a maximum output of 512 tokens in 50 trials."""

_PAPER_CELLS = make_cells([1], [8], [512])
_PAPER_RUNS, _PAPER_TRIALS = 5, 10
_AT_TOP = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "requests", "goodput_rps")


@dataclass(frozen=True, slots=True)
class Protocol:
    """How often everything is measured.

    Attributes:
        runs: fresh processes; each measures all cells.
        preset: that the numbers are from; None for the user's own.
    """

    runs: int
    preset: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A document and the raw trials behind it."""

    document: dict[str, Any]
    runs: dict[Cell, list[Trials]]

    def records(self) -> Iterator[dict[str, Any]]:
        """One for each trial, as ``requests.jsonl`` has them."""
        for cell, runs in self.runs.items():
            for number, run in enumerate(runs):
                for trial, times in enumerate(run.times):
                    yield {
                        **cell.to_json(),
                        "run": number,
                        "trial": trial,
                        "prefill_s": times.prefill_s,
                        "token_s": list(times.token_s),
                    }


def paper(options: LatencyOptions) -> tuple[LatencyOptions, Protocol]:
    """The preset: 50 trials, ten in each of five processes."""
    settled = replace(options, cells=_PAPER_CELLS, trials=_PAPER_TRIALS)
    return settled, Protocol(_PAPER_RUNS, PAPER)


def read_model(
    directory: Path, options: LatencyOptions, preset: str | None = None
) -> tuple[Artefact, LatencyOptions]:
    """The model, and the options with the engine that fits it, all checked without running it.

    Args:
        directory: of a checkpoint or an ONNX export.
        options: ``engine`` may be ``auto``.
        preset: that the cells are of, for messages.

    Raises:
        UsageError: no engine runs it, or the texts are longer than its context.
        IntegrityError: it is damaged.
        EnvironmentProblem: the engine or the device is not there.
    """
    artefact = describe(directory)
    options = replace(options, engine=_engine(artefact, options.engine))
    _require_engine(artefact, options)
    limit = artefact.context_length
    if options.engine == "vllm":
        from slimgpt.checkpoint.reader import read_config

        limit = context_of(read_config(directory, quantized=True)).limit
    require_context(options.cells, limit, artefact.name, preset)
    return artefact, options


def _engine(artefact: Artefact, asked: str) -> str:
    if asked == "auto":
        return "onnx" if artefact.form == "onnx" else "transformers"
    if asked == "onnx" and artefact.form != "onnx":
        raise UsageError(
            f"--engine onnx: {artefact.name} is a checkpoint: make an ONNX export of it with "
            "slimgpt export onnx, and give that"
        )
    if asked in ("transformers", "vllm") and artefact.form == "onnx":
        raise UsageError(
            f"--engine {asked}: {artefact.name} is an ONNX export: give the checkpoint that it was "
            "made from, or --engine onnx"
        )
    return asked


def _require_engine(artefact: Artefact, options: LatencyOptions) -> None:
    if options.engine == "vllm":
        found = require_vllm(installed_vllm(), "--engine vllm")
        platform_of(options.device, found)
    elif options.engine == "transformers":
        resolve_device(options.device)


def measure(
    artefact: Artefact, options: LatencyOptions, protocol: Protocol, progress: Progress
) -> Measured:
    """Runs everything: each run is a fresh process, and begins with another cell.

    Args:
        artefact: as :func:`read_model` gave it.
        options: likewise.
        protocol: how often.
        progress: watches; a step is a cell of a run.

    Raises:
        SlimGPTError: as the engine refuses the model, or died.
    """
    vocabulary = artefact.shape.vocab_size
    runs: dict[Cell, list[Trials]] = {cell: [] for cell in options.cells}
    settings: list[dict[str, Any]] = []
    with stage(progress, "measuring", protocol.runs * len(options.cells)):
        for number in range(protocol.runs):
            with _worker(artefact, options) as worker:
                settings.append(worker.describe())
                for cell in _turned(options.cells, number):
                    runs[cell].append(worker.measure(cell))
                    progress.advance()
    memory, missing = _memory(artefact, options, progress)
    cells = [cell_document(cell, x, seed=options.seed) for cell, x in runs.items()]
    problems = [text for cell in cells for text in cell["problems"]] + _changed(settings) + missing
    document = envelope(
        "latency",
        artefact=artefact.to_json(),
        workload=workload(options, vocabulary),
        environment=environment(settings[0]["device"]),
        valid=not problems,
        problems=problems + _unsettled(runs, options.warmup),
        engine=options.engine,
        settings=settings[0],
        protocol={
            "runs": protocol.runs,
            "trials": options.trials,
            "warmup": options.warmup,
            "preset": protocol.preset,
            "seed": options.seed,
        },
        cells=cells,
        memory=memory,
        **{name: cells[0][name] for name in _AT_TOP},
    )
    return Measured(document, runs)


def _memory(
    artefact: Artefact, options: LatencyOptions, progress: Progress
) -> tuple[dict[str, Any], list[str]]:
    """Memory, or none and why: the times that are there already are not to be lost."""
    with stage(progress, "memory", 1):
        try:
            found = measure_memory(
                artefact.directory,
                options,
                file_bytes=artefact.weight_bytes,
                name=artefact.name,
                vocabulary=artefact.shape.vocab_size,
            )
        except SlimGPTError as reason:
            return {}, [f"memory was not measured: {reason}"]
    return found, []


def _unsettled(runs: Mapping[Cell, Sequence[Trials]], warmup: int) -> list[str]:
    """A note on warm-ups that were cut off: the trials after them may still be slow."""
    found = {cell: sum(not run.settled for run in x) for cell, x in runs.items()}
    return [
        f"{cell.name}: in {count} of {len(runs[cell])} runs the warm-up ended before its trials "
        f"agreed: give more than --warmup {warmup}, or let the machine rest"
        for cell, count in found.items()
        if count
    ]


def _worker(artefact: Artefact, options: LatencyOptions) -> Worker:
    return Worker(
        artefact.directory, options, name=artefact.name, vocabulary=artefact.shape.vocab_size
    )


def _turned(cells: Sequence[Cell], number: int) -> list[Cell]:
    """Each run begins with the next cell: what a process does first is not always the same."""
    turn = number % len(cells)
    return [*cells[turn:], *cells[:turn]]


def _changed(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Runs that did not run as the first did are no repetition of it."""
    told = {json.dumps(x, sort_keys=True) for x in settings}
    return [f"{len(told)} different settings in {len(settings)} runs"] if len(told) > 1 else []


def require_numbers(runs: int, trials: int, warmup: int) -> None:
    """Refuses nothing to measure.

    Raises:
        UsageError: naming the option.
    """
    for flag, value, least in (
        ("--runs", runs, 1),
        ("--trials", trials, 1),
        ("--warmup", warmup, 0),
    ):
        if value < least:
            raise UsageError(f"{flag} {value}: give {least} or more")


def require_valid(document: dict[str, Any]) -> None:
    """Raises what an invalid document comes to; to be called once it is printed and kept.

    Raises:
        Unresolved: with every problem as a line.
    """
    if document["valid"]:
        return
    problem = Unresolved("; ".join(document["problems"]))
    problem.problems = tuple(document["problems"])
    raise problem
