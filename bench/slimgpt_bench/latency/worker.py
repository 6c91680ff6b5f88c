"""One engine in a process of its own: ``python -m slimgpt_bench.latency.worker PARENT``.

One JSON object a line comes in on standard input, the first with the model's directory and the
options; one a line goes out where standard output was: ``{"ok": ...}``, or ``{"error": ...}`` for
what a user can mend. The process ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import read_config
from slimgpt.cli import out_of_memory
from slimgpt.errors import EnvironmentProblem, SlimGPTError
from slimgpt_bench.child import end_with_parent
from slimgpt_bench.latency.cells import SMALLER, Cell, LatencyOptions, prompts_of
from slimgpt_bench.latency.measuring import run_cell
from slimgpt_bench.latency.process_memory import forget_high_water, held
from slimgpt_bench.latency.protocol import engine_class


class Job:
    """A loaded model and what it can be asked."""

    def __init__(self, directory: str, vocabulary: int | None, options: dict[str, Any]) -> None:
        self._directory = Path(directory)
        self._options = LatencyOptions.from_json(options)
        kind = engine_class(self._options.engine)
        self._baseline = held(os.getpid())
        self._vocabulary = vocabulary or _vocabulary(self._directory)
        self._engine = kind(self._directory, self._options)
        self._high_water_since = "start"

    def describe(self) -> dict[str, Any]:
        return self._engine.describe()

    def measure(self, cell: dict[str, int]) -> dict[str, Any]:
        return run_cell(self._engine, Cell(**cell), self._options, self._vocabulary).to_json()

    def forward(self, cell: dict[str, int]) -> None:
        """One trial; the high-water mark is of it alone, where the system can forget an older."""
        asked = Cell(**cell)
        self._engine.prepare(asked)
        self._high_water_since = "loading" if forget_high_water() else "start"
        prompts = prompts_of(asked, self._vocabulary, self._options.seed)
        self._engine.time(prompts, asked.output_tokens)

    def memory(self) -> dict[str, Any]:
        process = {
            **held(os.getpid()).to_json(),
            "high_water_since": self._high_water_since,
            "baseline_bytes": self._baseline.pss_bytes,
            "baseline_anonymous_bytes": self._baseline.anonymous_bytes,
        }
        return {**self._engine.memory(), "process": process}


def _vocabulary(directory: Path) -> int:
    return read_config(directory, quantized=True).shape.vocab_size


def main() -> None:
    """Loads what the first line names, then answers line by line."""
    end_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print goes to standard error
    job: Job | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if job is None:
                job = Job(**asked)
                said: Any = job.describe()
            else:
                said = getattr(job, asked.pop("do"))(**asked)
            answer = {"ok": said}
        except SlimGPTError as error:
            answer = {"error": _told(error)}
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            answer = {"error": _told(EnvironmentProblem(NO_MEMORY))}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


NO_MEMORY = f"the memory is not enough: {SMALLER}, or a smaller --dtype"


def _told(error: SlimGPTError) -> dict[str, str]:
    known = next(x for x in type(error).__mro__ if x.__module__ == SlimGPTError.__module__)
    return {"kind": known.__name__, "message": str(error)}


if __name__ == "__main__":
    main()
