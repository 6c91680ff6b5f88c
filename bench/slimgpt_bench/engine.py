"""A vLLM engine that runs in a child process, and is asked over pipes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from slimgpt.errors import EnvironmentProblem
from slimgpt_serve.launcher.failure import why_it_ended
from slimgpt_serve.preflight.installed import ALONE

ENVIRONMENT = {
    # In one process: what is asked ends with its parent, and no time goes into messages.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    **ALONE,
}
"""What every engine's environment has."""

_PATIENCE_S = 10.0


class Engine:
    """One engine; starts at once, and ends with the ``with`` block.

    Attributes:
        name: for messages.
        about: what the engine said of itself when it had started; empty before :meth:`ready`.
    """

    def __init__(
        self, name: str, options: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        """Starts the process.

        Args:
            name: for messages.
            options: of vLLM's ``LLM``.
            environment: of the process; :data:`ENVIRONMENT` is added.
        """
        self.name = name
        self.about: dict[str, Any] = {}
        # A file, not a pipe: vLLM writes much, and nobody reads it unless the engine dies.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # -P: a folder named vllm in the working directory is not what is meant.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "slimgpt_bench.engine_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**environment, **ENVIRONMENT},
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        self._send(dict(options))

    def ready(self) -> dict[str, Any]:
        """Waits for the start.

        Raises:
            EnvironmentProblem: vLLM died, with the reason that its output gives.
        """
        if not self.about:
            self.about = self._receive()
        return self.about

    def sample(self, starts: Sequence[Sequence[int]], length: int, seed: int) -> list[list[int]]:
        """Texts drawn from the model, of ``length`` tokens with their beginnings."""
        return self._ask(do="sample", starts=starts, length=length, seed=seed)  # type: ignore[no-any-return]

    def generate(
        self, prompts: Sequence[Sequence[int]], tokens: int, batch: int, top: int | None = None
    ) -> list[dict[str, Any]]:
        """Greedy answers of ``tokens`` tokens, one entry a batch.

        Args:
            prompts: token ids.
            tokens: to generate, end-of-text or not.
            batch: prompts that run together.
            top: likeliest tokens to tell of each step, with their log-probabilities.

        Returns:
            for each batch ``ids``, ``top``, ``decode_s``, ``decode_tokens``, ``counters``.
        """
        return self._ask(do="generate", prompts=prompts, tokens=tokens, batch=batch, top=top)  # type: ignore[no-any-return]

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of all tokens but the first of each text."""
        return self._ask(do="score", texts=texts)  # type: ignore[no-any-return]

    def log(self) -> list[str]:
        """What vLLM wrote so far."""
        self._log.seek(0)
        return self._log.read().splitlines()

    def close(self) -> None:
        """Ends the process; kills it where it does not end by itself."""
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:  # whatever it is busy with, nobody waits for
            self._process.kill()
        self.close()

    def _ask(self, **request: Any) -> Any:
        self.ready()
        self._send(request)
        return self._receive()

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._died()
        return json.loads(line)

    def _died(self) -> EnvironmentProblem:
        code = self._process.wait()
        cause = why_it_ended(self.log(), code)
        return EnvironmentProblem(f"the vLLM engine of {self.name} died: {cause}")
