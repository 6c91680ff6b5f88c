"""ONNX Runtime, timed: the session and the buffers of ``slimgpt serve``. Without torch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt_bench.decoders import Length, OnnxDecoder
from slimgpt_bench.latency.cells import SMALLER, Cell, LatencyOptions
from slimgpt_bench.latency.clocks import HostClock, finite, timed
from slimgpt_bench.latency.driver_memory import gpu_memory
from slimgpt_bench.latency.kv_memory import NO_DEVICE, kv_document
from slimgpt_bench.latency.trials import Times
from slimgpt_serve.onnx_runtime.runner import PREFILL_CHUNK, BadLogits
from slimgpt_serve.onnx_runtime.session import require_device
from slimgpt_serve.preflight.machine import free_memory_bytes

require_device("cpu", "float32", "", in_place=True)  # imports the package, or says what is missing

_NO_COUNT = "ONNX Runtime does not tell what its arena holds: see process"
_ARENA = {True: "on (ONNX Runtime's default, and what slimgpt serve runs with)", False: "off"}


class OnnxEngine:
    """An ONNX export, greedily. Times are the host's: logits come to its memory in every step."""

    def __init__(self, directory: Path, options: LatencyOptions) -> None:
        if options.compiled is not None:
            raise UsageError(
                "--compile and --eager are for --engine transformers and vllm: leave them out, "
                "an ONNX graph runs as it was exported"
            )
        if options.dtype != "auto":
            raise UsageError(
                f"--dtype {options.dtype} can't be had of an ONNX export: leave it out, or export "
                "again with another --precision"
            )
        self._free_bytes = free_memory_bytes()
        self._arena = _ARENA[options.arena]
        self._decoder = OnnxDecoder(
            directory, device=options.device, threads=options.threads, arena=options.arena
        )
        self._clock = HostClock()

    def describe(self) -> dict[str, Any]:
        session = self._decoder.session
        return {
            "engine": "onnx",
            "version": _version(),
            "device": session.device if session.device == "cpu" else f"cuda:{session.index}",
            "provider": session.provider,
            "precision": session.artefact.precision,
            "dtype": session.artefact.dtype,
            "cache": session.artefact.cache,
            "compiled": False,
            "threads": session.threads,
            "clock": "perf_counter",
            "prefill": f"row by row, {PREFILL_CHUNK} tokens at a time",
            "arena": self._arena,
        }

    def prepare(self, cell: Cell) -> None:
        self._cell = cell
        length = Length(cell.prompt_tokens, cell.output_tokens)
        try:
            self._decoder.prepare(length, cell.batch)
        except EnvironmentProblem as reason:  # it names the options of other commands
            raise EnvironmentProblem(
                f"{str(reason).partition(': ask for')[0]}: {SMALLER}"
            ) from None

    def finite(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> bool:
        try:
            return finite(self._decoder, prompts, output_tokens)
        except BadLogits:  # the runner looks at every step
            return False

    def time(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> Times:
        try:
            return timed(self._decoder, self._clock, prompts, output_tokens)
        except BadLogits:
            return Times(math.nan, (math.nan,) * output_tokens)

    def memory(self) -> dict[str, Any]:
        session, runner = self._decoder.session, self._decoder.runner
        on_cpu = session.device == "cpu"
        artefact = session.artefact
        return {
            # What it keeps of the weights is laid out anew, and it does not say how large that is.
            "weights": {"resident_bytes": None},
            "kv": kv_document(
                exact=artefact.kv_bytes(1, 1),
                measured=runner.kv_bytes / (runner.capacity * runner.slots) if runner else None,
                free_bytes=self._free_bytes if on_cpu else None,
                weight_bytes=artefact.weight_bytes,
                dtype=artefact.dtype,
            ),
            "allocator": {
                "peak_allocated_bytes": None,
                "peak_reserved_bytes": None,
                "reason": _NO_COUNT,
                "arena": self._arena,
            },
            "device": dict(NO_DEVICE) if on_cpu else gpu_memory(session.index, os.environ),
        }


def _version() -> str | None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
