"""One sequence, prompt and then token by token, in torch and in ONNX Runtime: what is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Decoder(Protocol):
    """One sequence on one engine."""

    def prefill(self, tokens: list[int]) -> None:
        """Reads a prompt into an empty cache."""

    def step(self, token: int) -> None:
        """Reads one more token."""


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

    Args:
        checkpoint: directory.
        length: of the sequences, which a static cache is made for.
        device: ``cpu`` or ``cuda``.
        dtype: as torch spells it.
        compiled: by torch.compile, each of prompt and step for its own shape.
    """

    def __init__(
        self, checkpoint: Path, length: Length, *, device: str, dtype: str, compiled: bool
    ) -> None:
        import torch

        from slimgpt.loading import load_model

        self._model, _ = load_model(checkpoint, device=device, dtype=dtype)
        self._model.requires_grad_(False)
        self._length, self._compiled, self._torch = length, compiled, torch
        self._forward: Callable[..., Any] = self._model
        if compiled:
            self._forward = torch.compile(self._model, dynamic=False)

    def prefill(self, tokens: list[int]) -> None:
        from transformers import DynamicCache, StaticCache

        config = self._model.config
        self._seen = 0
        self._cache: Any = (
            StaticCache(config=config, max_cache_len=self._length.all)
            if self._compiled
            else DynamicCache()
        )
        self._read(tokens)

    def step(self, token: int) -> None:
        self._read([token])

    def _read(self, tokens: list[int]) -> None:
        torch, device = self._torch, self._model.device
        ids = torch.tensor([tokens], device=device)
        positions = torch.arange(self._seen, self._seen + len(tokens), device=device)[None]
        with torch.inference_mode():
            logits = self._forward(
                ids,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        self._seen += len(tokens)
        float(logits[0, -1, 0])  # waits for a GPU


class OnnxDecoder:
    """An ONNX export, in the buffers that a server uses.

    Args:
        export: directory.
        length: of the sequences.
        device: ``cpu`` or ``cuda``.
        threads: of the session.
    """

    def __init__(self, export: Path, length: Length, *, device: str, threads: int) -> None:
        from slimgpt_serve.onnx_runtime.artefact import read_artefact
        from slimgpt_serve.onnx_runtime.generator import runner_of
        from slimgpt_serve.onnx_runtime.session import open_session

        session = open_session(read_artefact(export), device=device, threads=threads)
        self._runner: Any = runner_of(session, length.all, 1)

    def prefill(self, tokens: list[int]) -> None:
        self._runner.prefill(0, tokens)
        self._seen = len(tokens)

    def step(self, token: int) -> None:
        self._runner.decode([token], [self._seen])
        self._seen += 1
