"""Sampling from a model, and the demo's text that was sampled with it."""

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from slimgpt.demo import CALIBRATION, EVALUATION, MODEL
from slimgpt.demo.make_samples import SETS, find_fault
from slimgpt.sampling import draw_miss, inverse_cdf, sample_windows, uniform_draws

BOS = 1


@pytest.fixture(scope="module")
def reference() -> PreTrainedModel:
    """The embedded model in float32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    return model


@pytest.fixture(scope="module")
def tiny() -> PreTrainedModel:
    """A random model in float64: so exact that rounding does not decide between tokens."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        initializer_range=0.4,  # predictions far from uniform
    )
    torch.manual_seed(0)
    model: PreTrainedModel = LlamaForCausalLM(config).double().eval()
    return model


def draw(model: PreTrainedModel, **changes: Any) -> Tensor:
    arguments = {"samples": 6, "length": 24, "bos_token_id": BOS, "seed": 7}
    return sample_windows(model, **(arguments | changes))


def read_ids(path: Path) -> Tensor:
    with path.open(encoding="utf-8") as file:
        return torch.tensor([json.loads(line)["input_ids"] for line in file])


@torch.no_grad()
def predict(model: PreTrainedModel, windows: Tensor) -> Tensor:
    """Log-probabilities of positions 1 and up, from one forward without a cache."""
    logits: Tensor = model(windows, use_cache=False).logits
    return logits[:, :-1].log_softmax(dim=-1)


def scores(log_probabilities: Tensor, windows: Tensor) -> Tensor:
    return log_probabilities.gather(-1, windows[:, 1:, None]).squeeze(-1)


def test_same_seed_gives_the_same_windows(tiny: PreTrainedModel) -> None:
    assert torch.equal(draw(tiny), draw(tiny))


def test_another_seed_gives_other_windows(tiny: PreTrainedModel) -> None:
    assert not (draw(tiny) == draw(tiny, seed=8)).all(dim=1).any()


def test_windows_of_a_run_differ(tiny: PreTrainedModel) -> None:
    assert len(draw(tiny).unique(dim=0)) == 6


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_batch_size_changes_no_window(tiny: PreTrainedModel, batch_size: int) -> None:
    assert torch.equal(draw(tiny, batch_size=batch_size), draw(tiny, batch_size=32))


def test_more_samples_begin_with_the_fewer(tiny: PreTrainedModel) -> None:
    assert torch.equal(draw(tiny, samples=6)[:4], draw(tiny, samples=4))


def test_sampling_leaves_the_global_generator_alone(tiny: PreTrainedModel) -> None:
    before = torch.get_rng_state()
    draw(tiny)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_any_batch_size_follows_the_draws_in_float32(
    reference: PreTrainedModel, batch_size: int
) -> None:
    windows = draw(reference, samples=8, length=32, batch_size=batch_size)
    draws = uniform_draws(8, 32, seed=7)
    missed = draw_miss(predict(reference, windows), windows[:, 1:], draws[:, 1:])
    assert missed.max() < 1e-5  # 1.6e-6 seen between float32 and float64


def test_every_window_begins_with_bos(tiny: PreTrainedModel) -> None:
    assert (draw(tiny, bos_token_id=5)[:, 0] == 5).all()


def test_without_bos_first_tokens_are_uniform_over_the_vocabulary(tiny: PreTrainedModel) -> None:
    first = draw(tiny, samples=6400, length=1, bos_token_id=None)[:, 0]
    expected = 6400 / 64
    chi_square = ((first.bincount(minlength=64) - expected) ** 2 / expected).sum()
    assert abs(chi_square - 63) < 4 * sqrt(2 * 63)  # its mean and standard deviation


def test_end_of_text_does_not_end_a_window(tiny: PreTrainedModel) -> None:
    windows = draw(tiny, samples=32, length=32)
    end = tiny.config.eos_token_id
    after = windows[:, 1:][windows[:, :-1] == end]
    assert len(after) > 0
    assert (after != end).any()


def test_cached_predictions_equal_those_of_one_full_forward(reference: PreTrainedModel) -> None:
    recorded: list[Tensor] = []
    hook = reference.register_forward_hook(
        lambda model, inputs, output: recorded.append(output.logits[:, -1])
    )
    windows = draw(reference, samples=4, length=96)
    hook.remove()
    sampled = torch.stack(recorded, dim=1).log_softmax(dim=-1)
    full = scores(predict(reference, windows), windows)
    torch.testing.assert_close(scores(sampled, windows), full, rtol=0, atol=1e-4)


def test_nll_of_samples_agrees_with_the_entropy_of_the_predictions(
    reference: PreTrainedModel,
) -> None:
    windows = draw(reference, samples=64, length=64, bos_token_id=BOS)
    assert abs(surprise(reference, windows)) < 4


def surprise(model: PreTrainedModel, windows: Tensor) -> float:
    """Mean of (negative log-likelihood - entropy) over tokens, in its standard errors.

    For a model's own samples the terms are martingale differences: mean 0 and uncorrelated, so
    the standard error is exact however the tokens of a window depend on each other.
    """
    terms = []
    for batch in windows.split(16):
        predicted = predict(model, batch)
        entropy = -(predicted.exp() * predicted).sum(dim=-1)
        terms.append((-scores(predicted, batch) - entropy).flatten())
    excess = torch.cat(terms).double()
    return float(excess.mean() / (excess.std() / sqrt(len(excess))))


def test_inverse_cdf_chooses_each_token_in_proportion_to_its_probability() -> None:
    probabilities = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000  # a grid: counts are exact
    tokens = inverse_cdf(probabilities.log().expand(1000, 6), draws)
    assert tokens.bincount(minlength=6).tolist() == [0, 100, 0, 600, 300, 0]


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
def test_extreme_draws_choose_no_token_of_probability_zero(draw: float) -> None:
    logits = torch.full((1, 5000), -torch.inf)
    logits[0, 1000:4000] = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    token = inverse_cdf(logits, torch.tensor([draw], dtype=torch.float64)).item()
    assert token == (1000 if draw == 0 else 3999)


def test_a_draw_misses_the_tokens_beside_its_own_by_the_distance_to_them() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(3, 3)
    draws = torch.full((3,), 0.6, dtype=torch.float64)
    missed = draw_miss(logits, torch.arange(3), draws)
    torch.testing.assert_close(missed, torch.tensor([0.4, 0.0, 0.1]).double(), rtol=0, atol=1e-6)


def test_progress_adds_up_to_the_tokens_drawn(tiny: PreTrainedModel) -> None:
    drawn: list[int] = []
    draw(tiny, samples=5, length=8, batch_size=2, progress=drawn.append)
    assert sum(drawn) == 5 * 8
    assert len(drawn) == 3 * 8


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("samples", 0, "samples is 0; it must be at least 1"),
        ("batch_size", 0, "batch_size is 0; it must be at least 1"),
        ("length", 0, "length is 0; it must be from 1 to 32"),
        ("length", 33, "length is 33; it must be from 1 to 32"),
        ("bos_token_id", 64, "bos_token_id is 64; it must be from 0 to 63"),
        ("seed", -1, "seed is -1; it must be from 0 to 4294967295"),
        ("seed", 2**32, "seed is 4294967296; it must be from 0 to 4294967295"),
    ],
)
def test_an_argument_out_of_range_is_refused(
    tiny: PreTrainedModel, argument: str, value: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        draw(tiny, **{argument: value})


def test_a_model_in_training_mode_is_refused(tiny: PreTrainedModel) -> None:
    tiny.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            draw(tiny)
    finally:
        tiny.eval()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="logits are not finite"):
        inverse_cdf(torch.tensor([[0.0, bad]]), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize(("path", "length"), [(CALIBRATION, 256), (EVALUATION, 128)])
def test_demo_rows_are_windows_of_the_stated_shape(path: Path, length: int) -> None:
    windows = read_ids(path)
    assert windows.shape == (128, length)
    assert (windows[:, 0] == BOS).all()
    assert windows.min() >= 0
    assert windows.max() < 4096


def test_demo_calibration_and_evaluation_share_no_window() -> None:
    calibration = {tuple(row) for row in read_ids(CALIBRATION)[:, :32].tolist()}
    evaluation = {tuple(row) for row in read_ids(EVALUATION)[:, :32].tolist()}
    assert len(calibration) == len(evaluation) == 128
    assert not calibration & evaluation


def test_demo_evaluation_nll_agrees_with_the_entropy(reference: PreTrainedModel) -> None:
    assert abs(surprise(reference, read_ids(EVALUATION))) < 4


def test_demo_evaluation_is_what_the_script_draws(reference: PreTrainedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert find_fault(reference, tokenizer, SETS[1]) is None


def test_the_check_sees_another_seed(reference: PreTrainedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    other = replace(SETS[1], seed=SETS[1].seed + 1)
    assert find_fault(reference, tokenizer, other) is not None
