"""Sequences of equal length, prompt and then token by token, in torch and in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from slimgpt.errors import UsageError


class Decoder(Protocol):
    """A batch of sequences on one engine.

    Logits and tokens are the engine's own kind of array: (sequences, vocabulary) and (sequences,).
    """

    def prepare(self, length: Length, batch: int) -> None:
        """Makes room for a batch; what was there for another goes."""

    def begin(self) -> None:
        """Empties the cache."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Any:
        """Reads prompts of one length into the empty cache; logits after the last tokens."""

    def choose(self, logits: Any) -> Any:
        """The likeliest token of each sequence."""

    def step(self, tokens: Any) -> Any:
        """Reads one more token of each sequence; logits after it."""

    def wait(self) -> None:
        """Until all that was asked for is done: a GPU works behind the caller's back."""

    def finite(self, logits: Any) -> bool:
        """Whether logits are numbers."""


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of a sequence.

    Attributes:
        prompt: read at once.
        steps: read one by one.
    """

    prompt: int
    steps: int

    @property
    def all(self) -> int:
        return self.prompt + self.steps


class TorchDecoder:
    """transformers' own model, with its growing cache or, compiled, with its static one.

    Attributes:
        model: as transformers built it.
        meta: what its config says.
        cache: of the sequences that were begun last.
        seen: tokens of each of them.
    """

    def __init__(self, checkpoint: Path, *, device: str, dtype: str, compiled: bool) -> None:
        """Loads a checkpoint.

        Args:
            checkpoint: directory.
            device: ``auto``, ``cpu`` or ``cuda[:i]``.
            dtype: as torch spells it, or ``auto``.
            compiled: by torch.compile, each of prompt and step for its own shape.
        """
        import torch

        from slimgpt.loading import load_model

        self.model, self.meta = load_model(checkpoint, device=device, dtype=dtype)
        self.model.requires_grad_(False)
        self.cache: Any = None
        self.seen = 0
        self._compiled, self._torch = compiled, torch
        self._forward: Callable[..., Any] = self.model

    def prepare(self, length: Length, batch: int) -> None:
        self.cache = None
        if self._compiled:
            from transformers import StaticCache

            # Shapes of another cell would count as recompilations, of which few are allowed.
            self._torch.compiler.reset()
            self._forward = self._torch.compile(self.model, dynamic=False)
            self.cache = StaticCache(config=self.model.config, max_cache_len=length.all)
            # It allocates in its first run: a compiled one would be compiled again for the second.
            self.begin()
            first = self._torch.zeros(batch, 1, dtype=self._torch.long, device=self.model.device)
            self._run(self.model, first)

    def begin(self) -> None:
        from transformers import DynamicCache

        self.seen = 0
        if not self._compiled:
            self.cache = DynamicCache()
            return
        with self._torch.inference_mode():
            self.cache.reset()

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Any:
        return self._read(self._torch.tensor(prompts, device=self.model.device))

    def choose(self, logits: Any) -> Any:
        return logits.argmax(-1)

    def step(self, tokens: Any) -> Any:
        return self._read(self._torch.as_tensor(tokens, device=self.model.device)[:, None])

    def wait(self) -> None:
        if self.model.device.type == "cuda":
            self._torch.cuda.synchronize(self.model.device)

    def finite(self, logits: Any) -> bool:
        return bool(logits.isfinite().all())

    def _read(self, ids: Any) -> Any:
        logits = self._run(self._forward, ids)
        self.seen += ids.shape[1]
        return logits

    def _run(self, forward: Callable[..., Any], ids: Any) -> Any:
        torch = self._torch
        positions = torch.arange(self.seen, self.seen + ids.shape[1], device=ids.device)[None]
        with torch.inference_mode():
            logits = forward(
                ids,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits[:, -1]


class OnnxDecoder:
    """An ONNX export, in the buffers that a server uses; prompts are read one after the other.

    Attributes:
        session: that runs it.
        runner: over the buffers of the cell that was prepared last.
    """

    def __init__(
        self, export: Path, *, device: str, threads: int | None, arena: bool = True
    ) -> None:
        """Opens an export.

        Args:
            export: directory.
            device: ``auto``, ``cpu`` or ``cuda[:i]``.
            threads: of the session; None takes the cores that the process may use.
            arena: ONNX Runtime keeps a CPU's memory from run to run.
        """
        from slimgpt_serve.onnx_runtime.artefact import read_artefact
        from slimgpt_serve.onnx_runtime.session import open_session

        self.session = open_session(
            read_artefact(export), device=device, threads=threads, arena=arena
        )
        self.runner: Any = None

    def prepare(self, length: Length, batch: int) -> None:
        from slimgpt_serve.onnx_runtime.generator import runner_of

        self.runner = None  # its buffers go before the new ones come
        self.runner = runner_of(self.session, length.all, batch)
        if batch > self.runner.slots:
            raise UsageError(
                f"--batch {batch}: a portable export runs one sequence at a time; export without "
                "--portable, or give --batch 1"
            )

    def begin(self) -> None:
        """Nothing: a prompt overwrites what the buffers hold."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Any:
        self._held = [len(prompt) for prompt in prompts]
        return np.stack([self.runner.prefill(row, prompt) for row, prompt in enumerate(prompts)])

    def choose(self, logits: Any) -> Any:
        return logits.argmax(-1)

    def step(self, tokens: Any) -> Any:
        logits = self.runner.decode(tokens, self._held)
        self._held = [held + 1 for held in self._held]
        return logits

    def wait(self) -> None:
        """Nothing: logits come to this process's memory before a run returns."""

    def finite(self, logits: Any) -> bool:
        return bool(np.isfinite(logits).all())
