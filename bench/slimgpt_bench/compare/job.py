"""``slimgpt bench compare`` from its options to its document."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.errors import SlimGPTError, UsageError
from slimgpt.progress import Progress
from slimgpt_bench.artefact import describe
from slimgpt_bench.compare.by_depth import ByDepth, make_by_depth
from slimgpt_bench.compare.experiment import Experiment, device_of, order, run_experiment
from slimgpt_bench.compare.memory import compare_memory
from slimgpt_bench.compare.prediction import predict
from slimgpt_bench.compare.ratios import QUANTITIES, cell_ratios, failures
from slimgpt_bench.compare.sides import DENSE, PRUNED, THIRD, Side, require_comparable
from slimgpt_bench.intervals import FEWEST
from slimgpt_bench.latency import LatencyOptions
from slimgpt_bench.latency.cells import require_context, workload
from slimgpt_bench.latency.document import cell_document
from slimgpt_bench.latency.job import read_model
from slimgpt_bench.provenance import environment
from slimgpt_bench.results import envelope


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What is compared, and how often.

    Attributes:
        latency: engine (or ``auto``), cells and everything else that a run is told.
        rounds: blocks, in each of which every model runs twice.
        third: another model; None for none.
        by_depth: make the third one of whole layers.
        roofline: set what was found beside a prediction.
        memory: measure memory too.
    """

    latency: LatencyOptions
    rounds: int = 4
    third: Path | None = None
    by_depth: bool = False
    roofline: bool = True
    memory: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"--rounds {self.rounds}: give 1 or more; an interval needs {FEWEST}")
        if self.third and self.by_depth:
            raise UsageError("--third and --depth are both a third model: give one of them")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A document and the raw trials behind it."""

    document: dict[str, Any]
    experiment: Experiment

    def records(self) -> Iterator[dict[str, Any]]:
        """For ``requests.jsonl``."""
        return self.experiment.records()


def compare(dense: Path, pruned: Path, options: CompareOptions, progress: Progress) -> Comparison:
    """Checks both models, runs them in turn, and sets the roofline beside it.

    Args:
        dense: what is compared with.
        pruned: what is to be faster.
        options: see there.
        progress: watches.

    Raises:
        UsageError: a model that the engine does not run, a saved result, a text too long.
        Unresolved: the models can't be compared; every difference is a line.
        SlimGPTError: as an engine refuses its model, or died.
    """
    with ExitStack() as stack:
        sides, latency, made = _sides(dense, pruned, options, stack, progress)
        found = run_experiment(sides, latency, options.rounds, progress)
        cells = [
            cell_ratios(found, cell, third=len(sides) > 2, seed=latency.seed)
            for cell in latency.cells
        ]
        notes = [*_same(sides), *_unsteady(found, sides, latency)]
        memory = predicted = None
        if options.memory:
            memory = _beside("memory", lambda: compare_memory(sides, latency, progress), notes)
        if options.roofline:
            predicted = _beside(
                "the roofline",
                lambda: predict(sides, latency, found.settings, cells, progress),
                notes,
            )
    problems = [*_failed(found, sides, latency)]
    artefacts: dict[str, dict[str, Any]] = {s.role: s.artefact.to_json() for s in sides}
    if made:
        artefacts[THIRD]["made"] = made.to_json()
    document = envelope(
        "compare",
        artefact=artefacts[PRUNED],
        workload=workload(latency, sides[0].artefact.shape.vocab_size),
        environment=environment(device_of(latency, found.settings)),
        valid=not problems,
        problems=[*problems, *notes],
        dense=artefacts[DENSE],
        pruned=artefacts[PRUNED],
        third=artefacts.get(THIRD),
        engine=latency.engine,
        settings=found.settings,
        protocol=_protocol(sides, latency, options),
        cells=cells,
        memory=memory or {},
        predicted=predicted,
        differences=[],
        **{name: cells[0][name] for name in QUANTITIES},
    )
    return Comparison(document, found)


def _sides(
    dense: Path,
    pruned: Path,
    options: CompareOptions,
    stack: ExitStack,
    progress: Progress,
) -> tuple[list[Side], LatencyOptions, ByDepth | None]:
    """The models, checked, and the options with the engine that fits them."""
    for place in (dense, pruned, *([options.third] if options.third else [])):
        _require_model(place)
    sides = [Side("dense", describe(dense)), Side("pruned", describe(pruned))]
    if options.third:
        sides.append(Side("third", describe(options.third)))
    require_comparable(sides, options.latency)
    latency = options.latency
    for side in sides:
        _, latency = read_model(side.artefact.directory, latency)
    made = None
    if options.by_depth:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slimgpt-compare-")))
        made = make_by_depth(
            sides[0].artefact,
            sides[1].artefact,
            work,
            device=latency.device,
            seed=latency.seed,
            progress=progress,
        )
        sides.append(Side("third", describe(made.directory)))
        require_comparable(sides, latency)
    for side in sides:
        require_context(latency.cells, side.artefact.context_length, side.name)
    return sides, latency, made


def _require_model(place: Path) -> None:
    """Refuses a saved result: two files are two experiments."""
    if (place / "result.json").is_file() or place.name == "result.json":
        raise UsageError(
            f"{place} is a saved result, and two of them are not one experiment: give the two "
            f"models (directories with config.json, or {MANIFEST}), which are run in turn"
        )


def _protocol(
    sides: Sequence[Side], latency: LatencyOptions, options: CompareOptions
) -> dict[str, Any]:
    return {
        "rounds": options.rounds,
        "order": [side.role for side in order(sides)],
        "processes": options.rounds * 2 * len(sides),
        "trials": latency.trials,
        "warmup": latency.warmup,
        "seed": latency.seed,
        "ratio": "geometric mean over rounds of DENSE's time / OUT's time; above 1 OUT is faster",
        "interval": "95 %, Student's, of the logarithms of the rounds' ratios",
    }


def _beside(what: str, measure: Callable[[], dict[str, Any]], notes: list[str]) -> Any:
    """What stands beside the times; None and a note where it can't be had, as times are there."""
    try:
        return measure()
    except SlimGPTError as reason:
        notes.append(f"{what} is left out: {reason}")
        return None


def _failed(found: Experiment, sides: Sequence[Side], latency: LatencyOptions) -> Iterator[str]:
    """What makes ratios worthless."""
    for side in sides:
        for cell in latency.cells:
            runs = found.of(side.role, cell)
            for reason, count in failures(runs).items():
                total = sum(len(run.times) + sum(run.failed.values()) for run in runs)
                yield f"{side.name}, {cell.name}: {count} of {total} trials failed: {reason}"


def _same(sides: Sequence[Side]) -> Iterator[str]:
    digests = {side.artefact.digest for side in sides[:2]}
    if len(digests) == 1:
        yield (
            "DENSE and OUT are the same model, by its digest: whatever is found tells of the "
            "measurement, not of pruning"
        )


def _unsteady(found: Experiment, sides: Sequence[Side], latency: LatencyOptions) -> Iterator[str]:
    """Trends within the experiment: told, as the order of runs evens them out."""
    for side in sides:
        for cell in latency.cells:
            told = cell_document(cell, found.of(side.role, cell), seed=latency.seed)
            yield from (f"{side.name}, {text}" for text in told["problems"] if "not steady" in text)
