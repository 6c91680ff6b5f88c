"""An ONNX export as scoring asks a model: logits of whole texts, as torch tensors.

What measures perplexity, KL and tasks was written for transformers' models; of those it needs a
call, a device, a number format and a config. Alone in this room, this module imports torch.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor

from slimgpt.errors import IntegrityError, UsageError
from slimgpt_serve.onnx_runtime.artefact import read_artefact
from slimgpt_serve.onnx_runtime.session import OnnxSession, open_session
from slimgpt_serve.onnx_runtime.whole_texts import logits_of_texts

ENGINE = "onnxruntime"


def load_scored(directory: Path, *, device: str = "auto") -> ScoredExport:
    """Opens an export.

    Args:
        directory: of it.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.

    Raises:
        IntegrityError: it is damaged.
        EnvironmentProblem: ONNX Runtime or the device is missing.
    """
    return ScoredExport(open_session(read_artefact(directory), device=device))


class ScoredExport:
    """An opened export.

    Attributes:
        config: has the size of the vocabulary.
        device: where ids are wanted and logits are given: the CPU.
        dtype: that logits are computed in.
        runtime: engine, provider and precision, for the record.
    """

    def __init__(self, session: OnnxSession) -> None:
        self._session, self._artefact = session, session.artefact
        self.config = SimpleNamespace(vocab_size=self._artefact.vocabulary)
        self.device = torch.device("cpu")
        self.dtype: torch.dtype = getattr(torch, self._artefact.dtype)
        self.runtime = {
            "engine": ENGINE,
            "provider": session.provider,
            "precision": self._artefact.precision,
        }

    def __call__(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """Logits (texts, tokens, vocabulary) in float32, as the attribute ``logits``.

        Raises:
            UsageError: the texts are longer than the graph's context.
            IntegrityError: a logit is no number.
        """
        artefact, tokens = self._artefact, input_ids.shape[1]
        if tokens > artefact.context_length:
            raise UsageError(
                f"texts of {tokens} tokens are beyond the context of {artefact.directory}, "
                f"{artefact.context_length} tokens: give a smaller --window"
            )
        logits = torch.from_numpy(logits_of_texts(self._session, input_ids.numpy()))
        if not logits.isfinite().all():
            raise IntegrityError(
                f"{artefact.directory}: the logits are no numbers; export it again, with "
                "--precision fp32 where that is not what it has"
            )
        return SimpleNamespace(logits=logits)

    def eval(self) -> ScoredExport:
        """It is in evaluation mode."""
        return self

    def tie_weights(self) -> None:
        """They are as they were exported."""

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """What no scoring needs.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"--tasks: answers that are generated are not scored on ONNX exports like "
            f"{self._artefact.directory}: give tasks of choices, or the MODEL that it was made from"
        )
