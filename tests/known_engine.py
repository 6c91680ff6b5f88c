"""An engine whose times and memory are known: sleeps and allocations, as a file says.

A directory with ``known.json`` stands for a model. A worker finds the class by the name
:data:`NAME` where the repository is on its ``PYTHONPATH`` (:func:`environment`).
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimgpt.errors import IntegrityError
from slimgpt_bench.latency.cells import Cell, LatencyOptions
from slimgpt_bench.latency.trials import Times

NAME = "tests.known_engine:Known"
FILE = "known.json"
VOCABULARY = 100
_PAGE = 4096


def environment() -> dict[str, str]:
    """Of a process that holds a :class:`Known`."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def write_known(directory: Path, **known: Any) -> Path:
    """A directory that is measured as known: see :class:`Known` for the keys."""
    directory.mkdir(parents=True)
    (directory / FILE).write_text(json.dumps(known))
    return directory


class Known:
    """Reads ``prefill_s``, ``step_s``, ``slower`` (each trial by this share of the first),
    ``held_bytes``, ``released_bytes``, ``held_as`` (bytearray or tensor), ``fault`` (nan, nan late,
    short, killed, memory, damaged, broken) and ``settings``; all may be missing.
    """

    def __init__(self, directory: Path, options: LatencyOptions) -> None:
        self._known: dict[str, Any] = json.loads((directory / FILE).read_text())
        self._held = self._take("held_bytes")
        self._trials = 0

    def describe(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"engine": "known", "version": "1", "device": "cpu"}
        settings |= {"dtype": "float32", "compiled": False, "threads": 1}
        return {**settings, **self._known.get("settings", {})}

    def prepare(self, cell: Cell) -> None: ...

    def finite(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> bool:
        return bool(self._known.get("fault") != "nan")

    def time(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> Times:
        self._fail()
        started, pace = time.perf_counter(), 1 + self._trials * self._known.get("slower", 0)
        self._trials += 1
        released = self._take("released_bytes")
        moments = []
        for seconds in ["prefill_s", *["step_s"] * (output_tokens - 1)]:
            time.sleep(self._known.get(seconds, 0) * pace)
            moments.append(time.perf_counter() - started)
        del released
        if self._known.get("fault") == "nan late":
            return Times(math.nan, (math.nan,) * output_tokens)
        if self._known.get("fault") == "short":
            moments.pop()
        return Times(moments[0], tuple(moments))

    def memory(self) -> dict[str, Any]:
        nothing = {"total_bytes": None, "used_bytes": None, "reason": "none"}
        allocator = {"peak_allocated_bytes": None, "peak_reserved_bytes": None, "reason": "none"}
        kv = {"dtype": "float32", "bytes_per_token": 0, "token_capacity": None}
        weights = {"resident_bytes": None}
        return {"weights": weights, "kv": kv, "allocator": allocator, "device": nothing}

    def _take(self, key: str) -> Any:
        """So many bytes, of which every page is written to."""
        size = self._known.get(key, 0)
        if self._known.get("held_as") == "tensor":
            import torch

            return torch.ones(size, dtype=torch.uint8)
        taken = bytearray(size)
        taken[::_PAGE] = b"x" * len(range(0, size, _PAGE))
        return taken

    def _fail(self) -> None:
        fault = self._known.get("fault")
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "memory":
            raise MemoryError
        if fault == "damaged":
            raise IntegrityError("the model is damaged")
        if fault == "broken":
            raise ValueError("the engine is broken")
