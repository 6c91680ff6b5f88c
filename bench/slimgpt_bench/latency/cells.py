"""What is timed: cells of batch, prompt and output, and the prompts that fill them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from slimgpt.errors import UsageError

AGREED = 0.1
"""Warm-up ends when the last trials are within this of each other, relative to their median."""

WARMUP_TIMES = 3
"""Warm-up ends at this many times ``--warmup`` trials even if they do not agree."""


SMALLER = "give a smaller --batch, --prompt or --output"
"""What to do where the memory is not enough."""

MOST_TOKENS = 2**24
"""Of a batch, prompts and answers: no machine keeps so many, and they take minutes to draw."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting.

    Attributes:
        batch: sequences that run together.
        prompt_tokens: of each.
        output_tokens: of each, all of them generated: no end token ends a sequence.
    """

    batch: int
    prompt_tokens: int
    output_tokens: int

    @property
    def context(self) -> int:
        """Tokens that a sequence comes to."""
        return self.prompt_tokens + self.output_tokens

    @property
    def name(self) -> str:
        return f"--batch {self.batch} --prompt {self.prompt_tokens} --output {self.output_tokens}"

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LatencyOptions:
    """How a worker measures; the same for all models that are compared.

    Attributes:
        engine: ``transformers``, ``onnx`` or ``vllm``; tests may name a class of their own as
            ``module:Class`` (see :mod:`slimgpt_bench.latency.protocol`).
        cells: all that the worker may be asked for.
        trials: timed, of each cell and run.
        warmup: fewest trials that are thrown away first.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: as torch spells it, or ``auto``: float32 on a CPU and the stored type on a GPU.
        threads: of one operator on a CPU; None leaves it to the engine.
        compiled: by torch.compile (and CUDA graphs in vLLM); None is the engine's usual.
        seed: of the prompts.
        arena: ONNX Runtime's, for a CPU's memory; off where its share of memory is measured.
    """

    engine: str
    cells: tuple[Cell, ...]
    trials: int = 10
    warmup: int = 3
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    compiled: bool | None = None
    seed: int = 0
    arena: bool = True

    @property
    def context(self) -> int:
        """Tokens of the longest sequence."""
        return max(cell.context for cell in self.cells)

    @property
    def batch(self) -> int:
        return max(cell.batch for cell in self.cells)

    @property
    def step_tokens(self) -> int:
        """Tokens of the largest prefill: a whole batch at once."""
        return max(cell.batch * cell.prompt_tokens for cell in self.cells)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LatencyOptions:
        cells = tuple(Cell(**cell) for cell in values["cells"])
        return cls(**{**values, "cells": cells})


def make_cells(
    batches: Sequence[int], prompts: Sequence[int], outputs: Sequence[int]
) -> tuple[Cell, ...]:
    """Every combination, each once.

    Raises:
        UsageError: a number below 1, or a batch of more than :data:`MOST_TOKENS`.
    """
    for flag, values in (("--batch", batches), ("--prompt", prompts), ("--output", outputs)):
        for value in values:
            if value < 1:
                raise UsageError(f"{flag} {value}: give 1 or more")
    cells = tuple(dict.fromkeys(Cell(*x) for x in product(batches, prompts, outputs)))
    largest = max(cells, key=lambda cell: cell.batch * cell.context)
    if largest.batch * largest.context > MOST_TOKENS:
        raise UsageError(
            f"{largest.name} comes to {largest.batch * largest.context:,} tokens at once: give "
            f"{MOST_TOKENS:,} or fewer"
        )
    return cells


def require_context(
    cells: Sequence[Cell], limit: int | None, name: str, preset: str | None = None
) -> None:
    """Refuses texts longer than a model takes.

    Raises:
        UsageError: with the limit.
    """
    longest = max(cells, key=lambda cell: cell.context)
    if limit is None or longest.context <= limit:
        return
    if preset:
        raise UsageError(
            f"--preset {preset} comes to {longest.context} tokens, and {name} takes {limit}: "
            "measure it without, by --prompt and --output"
        )
    raise UsageError(
        f"--prompt {longest.prompt_tokens} and --output {longest.output_tokens} come to "
        f"{longest.context} tokens, and {name} takes {limit}: give less of one of these"
    )


def prompts_of(cell: Cell, vocabulary: int, seed: int) -> list[list[int]]:
    """Token ids (batch, prompt tokens), the same for all engines and all trials."""
    draw = random.Random(f"{seed} {cell}")  # noqa: S311, RUF100 - nothing secret
    return [
        [draw.randrange(vocabulary) for _ in range(cell.prompt_tokens)] for _ in range(cell.batch)
    ]


def workload(options: LatencyOptions, vocabulary: int) -> dict[str, Any]:
    """What was read and how much was generated, with a digest that tells one from another."""
    whole = hashlib.sha256()
    for cell in options.cells:
        read = [cell.to_json(), prompts_of(cell, vocabulary, options.seed)]
        whole.update(json.dumps(read).encode())
    return {
        "source": "random token ids",
        "seed": options.seed,
        "vocabulary": vocabulary,
        "cells": [cell.to_json() for cell in options.cells],
        "sampling": "greedy, no end token",
        "digest": whole.hexdigest(),
    }
