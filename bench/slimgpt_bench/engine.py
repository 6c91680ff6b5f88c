"""A vLLM engine that runs in a child process, and is asked over pipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt.errors import EnvironmentProblem
from slimgpt_bench.child import Child
from slimgpt_serve.launcher.failure import why_it_ended
from slimgpt_serve.preflight.installed import ALONE

ENVIRONMENT = {
    # In one process: what is asked ends with its parent, and no time goes into messages.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    **ALONE,
}
"""What every engine's environment has."""


class Engine(Child):
    """One engine; starts at once, and ends with the ``with`` block.

    Attributes:
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
        self.about: dict[str, Any] = {}
        super().__init__(
            name,
            "slimgpt_bench.engine_process",
            options,
            {**environment, **ENVIRONMENT},
        )

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

    def _ask(self, **request: Any) -> Any:
        self.ready()
        self._send(request)
        return self._receive()

    def _death(self, code: int) -> EnvironmentProblem:
        cause = why_it_ended(self.log(), code)
        return EnvironmentProblem(f"the vLLM engine of {self.name} died: {cause}")
