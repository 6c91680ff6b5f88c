"""Choosing the next token, as transformers' logits processors define it, in numpy.

In their order: the repetition penalty, the temperature, top-k, top-p (transformers/generation/
logits_process.py). What they do on whole vocabularies is done here on what can still be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token every time.
        top_k: only the likeliest so many; 0 is all.
        top_p: only the likeliest that together reach this probability, in (0, 1].
        repetition_penalty: logits of tokens seen before are divided by it, or multiplied where
            they are negative; 1 is none.
        seed: of the draws.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0


class Sampler:
    """Chooses the tokens of one sequence; its draws depend on its own seed alone."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)

    def pick(self, logits: Floats, seen: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: (vocabulary,) after the last token.
            seen: the prompt's tokens and all that were generated.
        """
        logits = penalized(logits, seen, self._options.repetition_penalty)
        if self._options.temperature == 0:
            return int(logits.argmax())
        tokens, probabilities = candidates(logits, self._options)
        reached = np.cumsum(probabilities)
        drawn = np.searchsorted(reached, self._random.random() * reached[-1], side="right")
        return int(tokens[min(int(drawn), len(tokens) - 1)])


def penalized(logits: Floats, seen: Sequence[int], penalty: float) -> Floats:
    """Logits (vocabulary,) after the repetition penalty, which counts a token once."""
    if penalty == 1 or not seen:
        return logits
    logits = logits.copy()
    limits = np.finfo(logits.dtype)
    # No penalty makes an infinity of a logit, whose softmax would be no number.
    penalty = min(max(penalty, float(limits.tiny)), float(limits.max))
    tokens = np.unique(np.asarray(seen))
    found = logits[tokens]
    with np.errstate(over="ignore"):
        found = np.where(found < 0, found * penalty, found / penalty)
    logits[tokens] = np.clip(found, limits.min, limits.max)
    return logits


def candidates(
    logits: Floats, options: SamplingOptions
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Tokens that may be drawn, in the order of their ids, and their probabilities.

    Args:
        logits: (vocabulary,), penalties applied.
        options: with a temperature above 0.
    """
    # Less the largest: a softmax is the same, and no temperature makes infinities of it.
    scores = logits.astype(np.float64) - float(logits.max())
    with np.errstate(over="ignore"):
        scores /= options.temperature
    tokens = np.arange(len(scores))
    if 0 < options.top_k < len(scores):
        least = np.partition(scores, -options.top_k)[-options.top_k]
        tokens = np.flatnonzero(scores >= least)
    probabilities = np.exp(scores[tokens])
    probabilities /= probabilities.sum()
    if options.top_p < 1:
        kept = _nucleus(probabilities, options.top_p)
        tokens, probabilities = tokens[kept], probabilities[kept]
        probabilities = probabilities / probabilities.sum()
    return tokens, probabilities


def _nucleus(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """Which to keep: all but the least likely that together have at most 1 - top_p.

    Those of at most (1 - top_p) / n each have at most 1 - top_p together, so that only the others
    need sorting: a handful of a large vocabulary.
    """
    kept = probabilities > (1 - top_p) / len(probabilities)
    kept[probabilities.argmax()] = True  # where all are alike, none is above their mean
    likely = np.flatnonzero(kept)
    rising = likely[np.argsort(probabilities[likely], kind="stable")]
    below = probabilities[~kept].sum() + np.cumsum(probabilities[rising])
    kept[rising[:-1][below[:-1] <= 1 - top_p]] = False  # the likeliest stays whatever is asked
    return kept


def log_probabilities(logits: Floats) -> NDArray[np.float64]:
    """Natural logarithms of the model's own probabilities (vocabulary,), nothing filtered."""
    scores: NDArray[np.float64] = logits.astype(np.float64) - float(logits.max())
    scores -= np.log(np.exp(scores).sum())
    return scores
