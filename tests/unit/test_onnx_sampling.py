"""Sampling without torch draws from the distributions that transformers' processors leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from slimgpt_serve.onnx_runtime.sampling import (
    Sampler,
    SamplingOptions,
    candidates,
    log_probabilities,
    penalized,
)

LOGITS = st.lists(st.integers(-2000, 2000), min_size=1, max_size=60, unique=True).map(
    lambda hundredths: np.array(hundredths, np.float32) / np.float32(100)
)
"""No two alike: which of them stays would be anyone's choice."""


def by_transformers(
    logits: NDArray[np.float32], seen: list[int], options: SamplingOptions
) -> NDArray[np.float64]:
    """Probabilities (vocabulary,) after transformers' own processors, in its own order."""
    processors = LogitsProcessorList()
    if options.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    processors.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        processors.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        processors.append(TopPLogitsWarper(options.top_p))
    ids: Any = torch.tensor([seen])
    given: Any = torch.from_numpy(logits.copy())[None]
    scores = processors(ids, given)
    return scores[0].double().softmax(-1).numpy()


def ours(
    logits: NDArray[np.float32], seen: list[int], options: SamplingOptions
) -> NDArray[np.float64]:
    found = np.zeros(len(logits))
    tokens, probabilities = candidates(penalized(logits, seen, options.repetition_penalty), options)
    found[tokens] = probabilities
    return found


def apart(logits: NDArray[np.float32], seen: list[int], options: SamplingOptions) -> bool:
    """Whether no rounding decides which tokens are kept: no two alike, none at the very edge."""
    scores = penalized(logits, seen, options.repetition_penalty) / options.temperature
    whole = np.sort(scores.astype(np.float64))
    if len(whole) > 1 and np.diff(whole).min() < 1e-5:
        return False
    kept = whole[-options.top_k :] if options.top_k else whole
    probabilities = np.exp(kept - kept.max())
    below = np.cumsum(probabilities / probabilities.sum())
    return bool(np.abs(below - (1 - options.top_p)).min() > 1e-5)


@settings(deadline=None, max_examples=200)
@given(
    logits=LOGITS,
    seed=st.integers(0, 2**32 - 1),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.01, 1),
    penalty=st.sampled_from([0.5, 1.0, 1.3, 3.0]),
)
def test_the_distribution_is_that_of_transformers(
    logits: NDArray[np.float32],
    seed: int,
    temperature: float,
    top_k: int,
    top_p: float,
    penalty: float,
) -> None:
    options = SamplingOptions(temperature, top_k, top_p, penalty)
    seen = np.random.default_rng(seed).integers(0, len(logits), 5).tolist()
    assume(apart(logits, seen, options))
    expected = by_transformers(logits, seen, options)
    np.testing.assert_allclose(ours(logits, seen, options), expected, atol=1e-5)


def test_tokens_as_likely_as_the_last_of_top_k_stay() -> None:
    logits = np.array([1, 3, 2, 2, 0], np.float32)
    options = SamplingOptions(temperature=1.0, top_k=2)
    assert ours(logits, [], options).nonzero()[0].tolist() == [1, 2, 3]
    expected = by_transformers(logits, [0], options)
    np.testing.assert_allclose(ours(logits, [0], options), expected, atol=1e-6)


@pytest.mark.parametrize("top_p", [1e-9, 0.5, 0.999999])
def test_the_likeliest_token_stays_whatever_is_asked(top_p: float) -> None:
    for size in (1, 2, 50_000):
        logits = np.linspace(0, 1e-3, size, dtype=np.float32)
        assert ours(logits, [], SamplingOptions(1.0, top_p=top_p))[-1] > 0


@pytest.mark.parametrize("top_p", [1e-320, 1e-9])
def test_of_tokens_that_are_all_alike_one_stays(top_p: float) -> None:
    for size in (1, 2, 4096):
        tokens, probabilities = candidates(np.zeros(size, np.float32), SamplingOptions(1.0))
        assert len(tokens) == size
        tokens, probabilities = candidates(
            np.zeros(size, np.float32), SamplingOptions(1e308, top_p=top_p)
        )
        assert (len(tokens), probabilities.tolist()) == (1, [1.0])


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e300])
@pytest.mark.parametrize("scale", [0.0, 5.0, 3e38])
def test_no_penalty_makes_an_infinity(penalty: float, scale: float) -> None:
    logits = np.array([-1, 1, 0, 0.5], np.float32) * np.float32(scale)
    assert np.isfinite(penalized(logits, [0, 1, 2], penalty)).all()
    for options in ({"top_k": 2}, {"top_p": 0.5}, {}):
        sampler = Sampler(SamplingOptions(1.0, repetition_penalty=penalty, **options))
        assert 0 <= sampler.pick(logits, [0, 1, 2]) < len(logits)


def test_a_small_temperature_is_the_likeliest_token_and_no_infinity() -> None:
    logits = np.array([10, 30, 29], np.float32)
    for temperature in (1e-30, 5e-324):
        sampler = Sampler(SamplingOptions(temperature=temperature))
        assert {sampler.pick(logits, []) for _ in range(20)} == {1}


def test_the_likeliest_token_counts_penalties_too() -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    greedy = Sampler(SamplingOptions(repetition_penalty=2.0))
    assert greedy.pick(logits, [0]) == 1
    assert greedy.pick(logits, [1, 1, 1]) == 2, "a token counts once"
    assert logits.tolist() == [1.0, 3.0, 2.0], "the caller's logits stay"


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))

    def draws(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed))
        return [sampler.pick(logits, []) for _ in range(4000)]

    counts = np.bincount(draws(1)) / 4000
    np.testing.assert_allclose(counts, [0.1, 0.6, 0.3], atol=0.03)  # 3.9 standard deviations
    assert draws(1) == draws(1) != draws(2)


@given(logits=LOGITS)
def test_log_probabilities_are_those_of_torch(logits: NDArray[np.float32]) -> None:
    expected = torch.from_numpy(logits).double().log_softmax(-1).numpy()
    np.testing.assert_allclose(log_probabilities(logits), expected, atol=1e-9)
