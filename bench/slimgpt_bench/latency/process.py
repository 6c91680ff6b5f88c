"""A worker process, seen by the one who asks it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt import errors
from slimgpt.errors import EnvironmentProblem, SlimGPTError
from slimgpt_bench.child import Child
from slimgpt_bench.engine import ENVIRONMENT
from slimgpt_bench.latency.cells import Cell, LatencyOptions
from slimgpt_bench.latency.trials import Trials
from slimgpt_serve.launcher.failure import why_it_ended
from slimgpt_serve.preflight.machine import visible


class Worker(Child):
    """One model on one engine in a fresh process; ends with the ``with`` block."""

    def __init__(
        self,
        directory: Path,
        options: LatencyOptions,
        *,
        name: str | None = None,
        vocabulary: int | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Starts the process, which begins to load the model.

        Args:
            directory: of a checkpoint or an ONNX export.
            options: with all cells that will be asked for.
            name: for messages; by default the directory's.
            vocabulary: ids that prompts are drawn from; by default the model's.
            environ: of this process.

        Raises:
            EnvironmentProblem: it can't be started.
        """
        self._about: dict[str, Any] | None = None
        first = {
            "directory": str(directory.resolve()),
            "vocabulary": vocabulary,
            "options": options.to_json(),
        }
        environment = worker_environment(options, environ)
        super().__init__(name or directory.name, "slimgpt_bench.latency.worker", first, environment)

    def describe(self) -> dict[str, Any]:
        """What runs and how, once the model is loaded: the document's ``settings``.

        Raises:
            SlimGPTError: as the engine refuses the model, or died.
        """
        if self._about is None:
            self._about = self._answer()
        return self._about

    def measure(self, cell: Cell) -> Trials:
        """Warms up and runs the trials of a cell.

        Raises:
            EnvironmentProblem: the memory is not enough, or the process died.
        """
        return Trials.from_json(self._ask(do="measure", cell=cell.to_json()))

    def forward(self, cell: Cell) -> None:
        """Runs one trial of a cell that counts for :meth:`memory` alone.

        Raises:
            EnvironmentProblem: as :meth:`measure`.
        """
        self._ask(do="forward", cell=cell.to_json())

    def memory(self) -> dict[str, Any]:
        """``weights``, ``kv``, ``allocator``, ``device``, ``process``, as they are now."""
        return self._ask(do="memory")  # type: ignore[no-any-return]

    def _ask(self, **request: Any) -> Any:
        self.describe()
        self._send(request)
        return self._answer()

    def _answer(self) -> Any:
        said = self._receive()
        if "ok" in said:
            return said["ok"]
        kind = getattr(errors, said["error"]["kind"], EnvironmentProblem)
        raise kind(said["error"]["message"])

    def _death(self, code: int) -> SlimGPTError:
        if code == -signal.SIGKILL:
            return EnvironmentProblem(
                f"the worker that measured {self.name} was killed: by the system for want of "
                "memory, most likely; give a smaller --batch, --prompt or --output"
            )
        cause = why_it_ended(self.log(), code)
        return EnvironmentProblem(f"the worker that measured {self.name} died: {cause}")


def worker_environment(options: LatencyOptions, environ: Mapping[str, str]) -> dict[str, str]:
    """Of a worker: its threads and its GPU are settled before a library is imported."""
    found = {**environ, **ENVIRONMENT}
    if options.threads is not None:
        found["OMP_NUM_THREADS"] = str(options.threads)
        # vLLM would bind a thread to every core, whatever it was told.
        found["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    # vLLM takes the first GPU that it sees; the others take the number themselves.
    narrowed = visible(options.device, environ) if options.engine == "vllm" else {}
    return found | narrowed
