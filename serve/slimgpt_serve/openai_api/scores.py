"""Log-probabilities of tokens, from the model's own distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slimgpt_serve.onnx_runtime.sampling import log_probabilities
from slimgpt_serve.openai_api.events import ScoredToken

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slimgpt_serve.onnx_runtime.tokens import Tokenizer


def scored(
    logits: NDArray[np.float32], token: int, alternatives: int, tokenizer: Tokenizer
) -> ScoredToken:
    """A token with its log-probability, and the likeliest tokens with theirs.

    Args:
        logits: [vocab], before penalties and temperature, as vLLM tells them.
        token: the one that was picked.
        alternatives: how many others to tell of; the picked one may be among them.
        tokenizer: gives the tokens' texts.
    """
    found = log_probabilities(logits)
    count = min(alternatives, len(found))
    likeliest = np.argpartition(-found, count - 1)[:count] if count else np.empty(0, np.intp)
    ordered = sorted(likeliest.tolist(), key=lambda i: (-found[i], i))
    return ScoredToken(
        tokenizer.token(token),
        float(found[token]),
        tuple((tokenizer.token(i), float(found[i])) for i in ordered),
    )
