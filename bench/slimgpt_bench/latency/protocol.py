"""What an engine has to do to be timed, and how one is found by its name.

An engine lives in a worker process. Besides those in :data:`ENGINES`, one may be named as
``module:Class``: tests time sleeps of known length so, with the module on ``PYTHONPATH``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from slimgpt_bench.latency.cells import Cell, LatencyOptions
from slimgpt_bench.latency.trials import Times

ENGINES = {
    "transformers": "slimgpt_bench.latency.transformers_engine:TransformersEngine",
    "onnx": "slimgpt_bench.latency.onnx_engine:OnnxEngine",
    "vllm": "slimgpt_bench.latency.vllm_engine:VllmEngine",
}


class TimedEngine(Protocol):
    """A model on one engine.

    Its module, imported, has imported all libraries that it needs, so that what the process holds
    before the model is the baseline.
    """

    def __init__(self, directory: Path, options: LatencyOptions) -> None:
        """Loads the model."""

    def describe(self) -> dict[str, Any]:
        """What runs and how: ``engine``, ``device``, ``dtype``, ``threads``, ``compiled``, ..."""

    def prepare(self, cell: Cell) -> None:
        """Makes room for a cell; what was there for another may go."""

    def finite(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> bool:
        """Whether all logits of a trial are numbers, which timed trials do not look at."""

    def time(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> Times:
        """One trial of the cell that was prepared; NaN where the engine gave up in it."""

    def memory(self) -> dict[str, Any]:
        """``weights``, ``kv``, ``allocator``, ``device``: what the engine knows of each.

        After :meth:`time` the peaks hold what it took.
        """


def engine_class(name: str) -> type[TimedEngine]:
    """The class of an engine, its libraries imported.

    Raises:
        EnvironmentProblem: a package that it needs is missing.
    """
    module, _, attribute = ENGINES.get(name, name).partition(":")
    found: type[TimedEngine] = getattr(importlib.import_module(module), attribute)
    return found
