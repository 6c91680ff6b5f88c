"""vLLM's own benchmarks, ``vllm bench latency`` and ``vllm bench throughput``, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimgpt.errors import EnvironmentProblem
from slimgpt_serve.launcher.failure import why_it_ended
from slimgpt_serve.preflight.installed import ALONE


def vllm_bench(
    what: str,
    model: Path,
    flags: Sequence[str],
    environment: Mapping[str, str],
    *,
    timeout_s: float,
) -> dict[str, Any]:
    """Runs one benchmark and returns what it wrote to ``--output-json``.

    Args:
        what: ``latency`` or ``throughput``.
        model: checkpoint directory.
        flags: of the benchmark and of the engine.
        environment: of the process.
        timeout_s: after which it is killed, with the workers that it started.

    Raises:
        EnvironmentProblem: it failed or took longer.
    """
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log"
        command = [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "bench", what]
        command += ["--model", str(model), "--output-json", str(result), *flags]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**environment, **ALONE},
                start_new_session=True,
            )
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise EnvironmentProblem(
                    f"vllm bench {what} of {model.name} took more than {timeout_s:.0f} s"
                ) from None
            finally:
                _end(process)
        if code or not result.is_file():
            lines = log.read_text("utf-8", "replace").splitlines()
            raise EnvironmentProblem(
                f"vllm bench {what} of {model.name} failed: {why_it_ended(lines, code)}"
            )
        return json.loads(result.read_text("utf-8"))  # type: ignore[no-any-return]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the process's session: vLLM's workers outlive a killed parent."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
