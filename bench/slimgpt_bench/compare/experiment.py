"""Runs of all models in turn: A B B A, A B B A, ..., each run a fresh process.

What drifts evenly slows both alike within a block, and what a start of a process leaves to chance
is a part of the spread that the interval has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt.progress import Progress, stage
from slimgpt_bench.compare.sides import Side, require_same_settings
from slimgpt_bench.latency import Cell, LatencyOptions, Trials, Worker


@dataclass(frozen=True, slots=True)
class Run:
    """One process.

    Attributes:
        role: of the model that it ran.
        block: number of the block, from 0.
        place: in that block.
        trials: of every cell.
    """

    role: str
    block: int
    place: int
    trials: dict[Cell, Trials]


@dataclass(frozen=True, slots=True)
class Experiment:
    """All runs, in the order in which they were made, and how the engine described itself."""

    runs: tuple[Run, ...]
    settings: dict[str, Any]

    def of(self, role: str, cell: Cell) -> list[Trials]:
        """The runs of a model."""
        return [run.trials[cell] for run in self.runs if run.role == role]

    def blocks(self, role: str, cell: Cell) -> list[list[Trials]]:
        """The same, by block."""
        count = 1 + max(run.block for run in self.runs)
        return [
            [run.trials[cell] for run in self.runs if (run.role, run.block) == (role, block)]
            for block in range(count)
        ]

    def records(self) -> Iterator[dict[str, Any]]:
        """One for each trial, as ``requests.jsonl`` has them."""
        for run in self.runs:
            for cell, trials in run.trials.items():
                for number, times in enumerate(trials.times):
                    yield {
                        "model": run.role,
                        "block": run.block,
                        "place": run.place,
                        **cell.to_json(),
                        "trial": number,
                        "prefill_s": times.prefill_s,
                        "token_s": list(times.token_s),
                    }


def device_of(options: LatencyOptions, settings: Mapping[str, Any]) -> str:
    """As this machine calls it: a vLLM worker sees its GPU alone, and gives it no number.

    Args:
        options: of the workers.
        settings: as the engine described itself.
    """
    return options.device if options.device.startswith("cuda") else str(settings["device"])


def order(sides: Sequence[Side]) -> list[Side]:
    """Of one block: there and back again."""
    return [*sides, *reversed(sides)]


def run_experiment(
    sides: Sequence[Side], options: LatencyOptions, rounds: int, progress: Progress
) -> Experiment:
    """Runs every model twice in each block.

    Args:
        sides: the dense model first.
        options: of every worker, the same for all.
        rounds: blocks.
        progress: watches; a step is a process.

    Raises:
        Unresolved: the engines run differently, as they say themselves.
        SlimGPTError: as an engine refuses its model, or died.
    """
    vocabulary = sides[0].artefact.shape.vocab_size
    settings: dict[str, Any] = {}
    runs = []
    with stage(progress, "comparing", rounds * 2 * len(sides)):
        for block in range(rounds):
            for place, side in enumerate(order(sides)):
                with Worker(
                    side.artefact.directory, options, name=side.name, vocabulary=vocabulary
                ) as worker:
                    settings = settings or worker.describe()
                    require_same_settings(settings, worker.describe(), side.name)
                    runs.append(Run(side.role, block, place, _measure(worker, options, block)))
                progress.advance()
    return Experiment(tuple(runs), settings)


def _measure(worker: Worker, options: LatencyOptions, block: int) -> dict[Cell, Trials]:
    """All cells; each block begins with another one."""
    turn = block % len(options.cells)
    cells = (*options.cells[turn:], *options.cells[:turn])
    return {cell: worker.measure(cell) for cell in cells}
