"""Perplexity, and KL(dense || pruned) at every scored token."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slimgpt.errors import IntegrityError, UsageError
from slimgpt.evaluate.windows import EvaluationText
from slimgpt.progress import Progress, Silent, stage

_TOKENS_A_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Quality:
    """What a model makes of a text.

    Attributes:
        nll: mean negative log-likelihood of a scored token, nats.
        kl: mean KL(baseline || model) of the predictions at scored tokens, nats; None without a
            baseline.
        baseline_nll: the baseline's nll.
        text: what was scored.
    """

    nll: float
    kl: float | None
    baseline_nll: float | None
    text: EvaluationText

    @property
    def perplexity(self) -> float:
        """exp(nll); infinite where that overflows."""
        return perplexity(self.nll)

    def to_json(self) -> dict[str, Any]:
        """The document of ``slimgpt evaluate --json``."""
        document: dict[str, Any] = {"perplexity": self._entry(self.nll)}
        if self.baseline_nll is not None:
            document["baseline_perplexity"] = self._entry(self.baseline_nll)
            document["kl"] = {"value": self.kl, "tokens": self.text.scored_tokens, "unit": "nats"}
        return document

    def _entry(self, nll: float) -> dict[str, Any]:
        value = perplexity(nll)  # JSON has no infinity
        return {
            "value": value if isfinite(value) else None,
            "tokens": self.text.scored_tokens,
            "window": self.text.windows.shape[1],
            "text": self.text.name,
            "protocol": self.text.protocol,
        }


def perplexity(nll: float) -> float:
    """exp(nll), infinite where that overflows."""
    return exp(nll) if nll < 700 else inf


@torch.inference_mode()
def measure(
    model: Any,
    text: EvaluationText,
    baseline: Any | None = None,
    progress: Progress | None = None,
) -> Quality:
    """Scores a text with a model, and with the model that it was made from.

    Args:
        model: a transformers causal LM in evaluation mode.
        text: what to score.
        baseline: the dense model, for KL; its vocabulary must be the same.
        progress: watches.

    Raises:
        UsageError: the vocabularies differ.
        IntegrityError: a model predicts NaN.
    """
    if baseline is not None and baseline.config.vocab_size != model.config.vocab_size:
        raise UsageError(
            f"--baseline has a vocabulary of {baseline.config.vocab_size}, the model of "
            f"{model.config.vocab_size}: KL needs the same"
        )
    batch = max(1, _TOKENS_A_BATCH // text.windows.shape[1])
    totals = torch.zeros(3, dtype=torch.float64)
    watcher = progress or Silent()
    with stage(watcher, "scoring text", len(text.windows)):
        for windows in text.windows.split(batch):
            totals += _score(model, baseline, windows)
            watcher.advance(len(windows))
    if not totals.isfinite().all():
        raise IntegrityError(
            "the predictions are no numbers: the weights are damaged, or --dtype float32 is needed"
        )
    nll, baseline_nll, kl = (totals / text.scored_tokens).tolist()
    if baseline is None:
        return Quality(nll, None, None, text)
    return Quality(nll, kl, baseline_nll, text)


def _score(model: Any, baseline: Any | None, windows: Tensor) -> Float[Tensor, "3"]:
    """Sums over the scored tokens: NLL, the baseline's NLL, KL."""
    logp = _log_probabilities(model, windows)
    targets = windows[:, 1:, None].to(logp.device)
    nll = -logp.gather(2, targets).sum(dtype=torch.float64)
    if baseline is None:
        return torch.tensor([float(nll), 0.0, 0.0], dtype=torch.float64)
    reference = _log_probabilities(baseline, windows).to(logp.device)
    baseline_nll = -reference.gather(2, targets).sum(dtype=torch.float64)
    kl = (reference.exp() * (reference - logp)).sum(dtype=torch.float64)
    return torch.tensor([float(nll), float(baseline_nll), float(kl)], dtype=torch.float64)


def _log_probabilities(model: Any, windows: Tensor) -> Float[Tensor, "batch predictions vocab"]:
    logits = model(input_ids=windows.to(model.device), use_cache=False).logits
    return torch.log_softmax(logits[:, :-1].float(), dim=-1)
