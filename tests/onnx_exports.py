"""ONNX exports of tiny checkpoints, each made once, and torch's logits to set beside theirs."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimgpt_export.onnx.job import export_onnx
from slimgpt_export.onnx.options import OnnxOptions
from slimgpt_export.onnx.precision import Precision
from slimgpt_export.onnx.result import OnnxResult
from slimgpt_serve.onnx_runtime.artefact import read_artefact
from slimgpt_serve.onnx_runtime.generator import runner_of
from slimgpt_serve.onnx_runtime.session import OnnxSession, open_session
from slimgpt_serve.onnx_runtime.whole_texts import logits_of_texts


class Exports:
    """Exports each checkpoint once a process."""

    def __init__(self, root: Path) -> None:
        self._root, self._numbers = root, count()
        self._made: dict[tuple[Path, str, bool], OnnxResult] = {}

    def make(self, model: Path, precision: str = "fp32", *, portable: bool = False) -> OnnxResult:
        """An export without a choice of parts."""
        key = model, precision, portable
        if key not in self._made:
            activations = {"fp16": "float16", "bf16": "bfloat16"}.get(precision, "float32")
            chosen = Precision(precision, activations)  # type: ignore[arg-type]
            out = self._root / f"export-{next(self._numbers)}"
            options = OnnxOptions(chosen, device="cpu", portable=portable)
            self._made[key] = export_onnx(model, out, options)
        return self._made[key]


def opened(export: Path) -> OnnxSession:
    """A session on the CPU, of one thread."""
    return open_session(read_artefact(export), device="cpu", threads=1)


def prefill_logits(session: OnnxSession, ids: Tensor) -> Tensor:
    """Logits (texts, tokens, vocabulary) of whole texts."""
    return torch.from_numpy(logits_of_texts(session, ids.numpy()))


def cached_logits(session: OnnxSession, ids: Tensor, prompt: int) -> Tensor:
    """Logits (tokens behind the prompt, vocabulary) of one text, token by token."""
    text: list[int] = ids.tolist()
    runner: Any = runner_of(session, len(text), 1)
    found = [runner.prefill(0, text[:prompt])[None]]
    found += [runner.decode([text[i]], [i]) for i in range(prompt, len(text))]
    return torch.from_numpy(np.concatenate(found))


@torch.no_grad()
def torch_cached_logits(model: Any, ids: Tensor, prompt: int) -> Tensor:
    """As :func:`cached_logits`, by transformers with its own cache."""
    step = model(ids[None, :prompt], use_cache=True)
    found, cache = [step.logits[0, -1]], step.past_key_values
    for i in range(prompt, len(ids)):
        step = model(ids[None, i : i + 1], past_key_values=cache, use_cache=True)
        found.append(step.logits[0, -1])
    return torch.stack(found)
