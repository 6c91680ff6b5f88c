"""Token windows drawn from a causal language model itself: calibration with no data at all.

Ancestral sampling: temperature 1, the full vocabulary, no stop at the end-of-text token. So the
windows follow the model's own distribution exactly, and the perplexity of a model q on windows
drawn from p is exp(entropy of p + KL(p || q)): what exceeds exp(entropy) is what q lost.

A token is the one whose interval of the cumulative distribution holds a number drawn in advance.
Hence a window does not depend on how windows are batched, and ``draw_miss`` can tell on any
machine whether stored windows are the ones that a seed gives.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from transformers import PreTrainedModel

SEED_LIMIT = 2**32
"""Seeds are below this: torch's CPU generator drops the higher bits without a word."""


def sample_windows(
    model: PreTrainedModel,
    *,
    samples: int,
    length: int,
    bos_token_id: int | None,
    seed: int,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Int64[Tensor, "samples length"]:
    """Draw windows of tokens from a model, with the KV cache, on the model's device.

    Window i depends on (``seed``, i, ``length``), neither on ``batch_size`` nor on ``samples``,
    but for rounding: where a draw lies on the edge between two tokens, another batch size, thread
    count or processor may choose the other one (the demo's float32 model: one token in 50,000).

    Args:
        model: a causal LM in eval mode; it is only read.
        samples: windows to draw, at least 1.
        length: tokens a window, the first one included, from 1 to the model's maximum context.
        bos_token_id: the first token of every window; None draws it uniformly from the vocabulary.
        seed: of the one CPU generator that all randomness comes from, from 0 to 2**32 - 1.
        batch_size: windows sampled together; memory (KV cache, logits) grows with it.
        progress: called with the number of tokens drawn since its last call; the calls add up
            to ``samples * length``.

    Returns:
        Token ids, shape (samples, length), on the CPU.

    Raises:
        ValueError: an argument is out of range, the model is in training mode, or its logits
            are not finite.
    """
    _check(model, samples, length, bos_token_id, seed, batch_size)
    batches = [
        _sample_batch(model, draws, bos_token_id, progress or _silent)
        for draws in uniform_draws(samples, length, seed).split(batch_size)
    ]
    return torch.cat(batches)


def uniform_draws(samples: int, length: int, seed: int) -> Float64[Tensor, "samples length"]:
    """All the randomness of ``sample_windows``: numbers in [0, 1), shape (samples, length).

    One stream read row by row, so a window's draws do not depend on how many windows follow.
    Not a generator a window: their 32-bit seeds would have to be derived, and could collide.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.rand(length, dtype=torch.float64, generator=generator) for _ in range(samples)]
    return torch.stack(rows)


def inverse_cdf(
    logits: Float[Tensor, "*n vocabulary"], draws: Float64[Tensor, "*n"]
) -> Int64[Tensor, "*n"]:
    """The token whose interval of the cumulative distribution holds each draw, in float64.

    A token of probability 0 has an empty interval and is never chosen.

    Args:
        logits: unnormalised log-probabilities of any float type, shape (*n, vocabulary).
        draws: numbers in [0, 1) on the same device, shape (*n).

    Returns:
        Token ids, shape (*n).

    Raises:
        ValueError: logits hold NaN or +Inf, or nothing but -Inf.
    """
    cumulative = _cumulative(logits)
    sought = draws.unsqueeze(-1).contiguous()
    # right=True: the first entry above the draw, which skips empty intervals.
    return torch.searchsorted(cumulative, sought, right=True).squeeze(-1)


def draw_miss(
    logits: Float[Tensor, "*n vocabulary"],
    tokens: Int64[Tensor, "*n"],
    draws: Float64[Tensor, "*n"],
) -> Float64[Tensor, "*n"]:
    """How far each draw lies outside its token's interval, in probability; 0 inside it.

    Where ``tokens`` were sampled with these draws it is 0 up to the rounding of the logits, so
    it compares samples across machines, which comparing the tokens cannot.

    Args:
        logits: predictions for the positions of ``tokens``, shape (*n, vocabulary).
        tokens: ids, shape (*n).
        draws: numbers in [0, 1), shape (*n).

    Raises:
        ValueError: as ``inverse_cdf``.
    """
    cumulative = torch.nn.functional.pad(_cumulative(logits), (1, 0))
    lower = cumulative.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    upper = cumulative.gather(-1, tokens.unsqueeze(-1) + 1).squeeze(-1)
    return torch.maximum(lower - draws, draws - upper).clamp(min=0)


def _cumulative(
    logits: Float[Tensor, "*n vocabulary"],
) -> Float64[Tensor, "*n vocabulary"]:
    """The cumulative distribution over the vocabulary in its own order; it ends at exactly 1."""
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[..., -1:]
    if not bool(total.isfinite().all()):
        raise ValueError(
            "the model's logits are not finite, so nothing can be sampled from them: check its "
            "weights for NaN and Inf, or load it in float32"
        )
    return cumulative / total


@torch.no_grad()
def _sample_batch(
    model: PreTrainedModel,
    draws: Float64[Tensor, "batch length"],
    bos_token_id: int | None,
    progress: Callable[[int], None],
) -> Int64[Tensor, "batch length"]:
    """One window for each row of draws, a column at a time."""
    batch, length = draws.shape
    draws = draws.to(model.device)
    tokens = _first_tokens(model, draws[:, 0], bos_token_id)
    columns, cache = [tokens], None
    progress(batch)
    for position in range(length - 1):
        # Positions are given, not inferred: a cache whose layer 0 has no attention reports
        # length 0 for ever, and every token would be rotated as if it came first.
        output = model(
            input_ids=tokens[:, None],
            position_ids=torch.full_like(tokens[:, None], position),
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        tokens = inverse_cdf(output.logits[:, -1], draws[:, position + 1])
        columns.append(tokens)
        progress(batch)
    return torch.stack(columns, dim=1).cpu()


def _first_tokens(
    model: PreTrainedModel, draws: Float64[Tensor, " batch"], bos_token_id: int | None
) -> Int64[Tensor, " batch"]:
    """BOS in every row, or without one a token drawn uniformly from the vocabulary."""
    if bos_token_id is None:
        return (draws * int(model.config.vocab_size)).long()
    return torch.full_like(draws, bos_token_id, dtype=torch.long)


def _silent(tokens: int) -> None:
    """The progress callback of a caller who gave none."""


def _check(
    model: PreTrainedModel,
    samples: int,
    length: int,
    bos_token_id: int | None,
    seed: int,
    batch_size: int,
) -> None:
    """Raise ValueError for the first argument of ``sample_windows`` that is out of range."""
    if model.training:
        raise ValueError("the model is in training mode, with dropout on: call model.eval() first")
    _check_range("samples", samples, 1, None)
    _check_range("length", length, 1, getattr(model.config, "max_position_embeddings", None))
    _check_range("seed", seed, 0, SEED_LIMIT - 1)
    _check_range("batch_size", batch_size, 1, None)
    if bos_token_id is not None:
        _check_range("bos_token_id", bos_token_id, 0, model.config.vocab_size - 1)


def _check_range(name: str, value: int, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {value}; it must be {allowed}")
