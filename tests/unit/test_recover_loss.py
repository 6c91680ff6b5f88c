"""The loss that recovery takes: over scored tokens only, each weighing the same."""

from __future__ import annotations

import os
from array import array
from contextlib import suppress
from math import log
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, softmax
from transformers import LlamaConfig, LlamaForCausalLM

from slimgpt.recover.batches import IGNORED, by_length, collate, mean_loss, scored_logits
from slimgpt.recover.data import Example
from slimgpt.recover.options import RecoverOptions
from slimgpt.recover.surroundings import one_process, repeatable
from slimgpt.recover.trainer import training_loss

VOCABULARY = 11


def example(*ids: int, answer: int = 1) -> Example:
    return Example(array("i", ids), answer)


@pytest.fixture(scope="module")
def model() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.7)
    return model.eval()


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a model and of its teacher at six tokens, and those tokens."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, VOCABULARY, generator=generator)
    taught = torch.randn(6, VOCABULARY, generator=generator)
    return logits, taught, torch.randint(VOCABULARY, (6,), generator=generator)


def by_hand(
    logits: torch.Tensor, taught: torch.Tensor, targets: torch.Tensor, weight: float, t: float
) -> float:
    """Token by token, in float64: (1 - w) CE + w t^2 sum_v q (log q - log p)."""
    total = 0.0
    for row, teacher, target in zip(logits.double(), taught.double(), targets, strict=True):
        surprise = -log(float(softmax(row, 0)[target]))
        p, q = softmax(row / t, 0), softmax(teacher / t, 0)
        divergence = float((q * (q.log() - p.log())).sum())
        total += (1 - weight) * surprise + weight * t**2 * divergence
    return total


@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_the_formula(predictions, weight, temperature):
    logits, taught, targets = predictions
    options = RecoverOptions(distill_weight=weight, temperature=temperature)
    expected = by_hand(logits, taught, targets, weight, temperature)
    loss = training_loss(logits, targets, taught, options)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_without_distillation_it_is_plain_cross_entropy(predictions):
    logits, taught, targets = predictions
    plain = cross_entropy(logits, targets, reduction="sum")
    options = RecoverOptions(distill_weight=0.0, temperature=3.0)
    assert torch.equal(training_loss(logits, targets, None, options), plain)
    # A teacher that has no weight has no say.
    assert float(training_loss(logits, targets, taught, options)) == pytest.approx(float(plain))


def test_a_model_that_predicts_as_its_teacher_does_has_no_divergence(predictions):
    logits, _, targets = predictions
    options = RecoverOptions(distill_weight=1.0, temperature=2.0)
    shifted = logits + 5  # the same distribution
    assert float(training_loss(logits, targets, shifted, options)) == pytest.approx(0, abs=1e-5)


def test_temperature_leaves_the_size_of_the_gradients(predictions):
    """At high temperatures t^2 KL tends to half the squared difference of the logits over n."""
    logits, taught, targets = predictions
    sizes = []
    for t in (1.0, 100.0, 1000.0):
        moved = logits.clone().requires_grad_()
        options = RecoverOptions(distill_weight=1.0, temperature=t)
        training_loss(moved, targets, taught, options).backward()
        assert moved.grad is not None
        sizes.append(float(moved.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[2], rel=0.05)
    assert 0.2 < sizes[0] / sizes[2] < 5


def test_a_batch_is_padded_on_the_right_and_padding_is_not_scored():
    batch = collate([example(3, 4, 5, answer=2), example(6, 7, 8, 9, 10, answer=1)])
    assert batch["input_ids"].tolist() == [[3, 4, 5, 0, 0], [6, 7, 8, 9, 10]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [
        [IGNORED, IGNORED, 5, IGNORED, IGNORED],
        [IGNORED, 7, 8, 9, 10],
    ]


def test_a_token_is_predicted_from_those_before_it(model):
    batch = collate([example(3, 4, 5, 6, answer=2)])
    logits, targets = scored_logits(model, batch)
    assert targets.tolist() == [5, 6]
    alone = model(torch.tensor([[3, 4, 5]])).logits[0]
    torch.testing.assert_close(logits, alone[1:3], rtol=1e-5, atol=1e-5)


def test_scoring_takes_every_example_once_in_batches_of_like_length():
    examples = [example(*range(1, 2 + i % 900)) for i in range(1, 100)] + [
        example(*([1] * 5000), answer=4999)  # longer than a whole batch
    ]
    batches = list(by_length(examples))
    assert sum(len(b["labels"]) for b in batches) == len(examples)
    scored = sum(int((b["labels"] != IGNORED).sum()) for b in batches)
    assert scored == sum(e.scored for e in examples)
    assert all(b["labels"].numel() <= 4096 or len(b["labels"]) == 1 for b in batches)


def test_the_held_out_loss_is_a_mean_over_tokens_not_over_examples(model):
    examples = [example(3, 4), example(*range(1, 11), answer=3), example(5, 6, 7, 8, answer=3)]
    total, tokens = 0.0, 0
    for one in examples:
        logits = model(torch.tensor([list(one.ids)])).logits[0].detach().double()
        for at in range(one.answer, len(one.ids)):
            total -= float(log_softmax(logits[at - 1], 0)[one.ids[at]])
            tokens += 1
    assert mean_loss(model, examples) == pytest.approx(total / tokens, rel=1e-5)


def test_scoring_leaves_the_model_as_it_was(model):
    for training in (True, False):
        model.train(training)
        mean_loss(model, [example(3, 4, 5)])
        assert model.training is training
    model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_weights_compute_in_bfloat16(model, dtype):
    """Whatever they are stored in, and so the same in training and in scoring."""
    seen = []
    copy = LlamaForCausalLM(model.config).to(dtype).eval()
    copy.load_state_dict(model.state_dict())
    hook = copy.lm_head.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    logits, _ = scored_logits(copy, collate([example(3, 4, 5, 6)]))
    hook.remove()
    assert seen == [torch.float32 if dtype == torch.float32 else torch.bfloat16]
    assert logits.dtype == torch.float32
    exact = scored_logits(model, collate([example(3, 4, 5, 6)]))[0].detach()
    torch.testing.assert_close(logits, exact, rtol=0, atol=0.1 * float(exact.abs().max()))


def test_what_a_launcher_left_in_the_environment_is_hidden_and_put_back(monkeypatch):
    left = {"LOCAL_RANK": "0", "WORLD_SIZE": "8", "ACCELERATE_USE_FSDP": "true", "HOME": "/x"}
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with suppress(ZeroDivisionError), one_process():
        assert not {"LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP"} & set(os.environ)
        assert os.environ["HOME"] == "/x"
        raise ZeroDivisionError
    assert dict(os.environ) == before


def test_a_gpu_is_told_to_add_up_in_one_order_and_only_while_training(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")  # and so it is again in the end
    with suppress(ZeroDivisionError), repeatable(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
