"""KL from slices of the logits is KL from all of them, and small ones are not lost in rounding."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimgpt_export.onnx.divergence import Divergence


def directly(reference: Tensor, other: Tensor) -> float:
    p, q = (x.double().log_softmax(1) for x in (reference, other))
    return float((p.exp() * (p - q)).sum(1).mean())


def by_slices(reference: Tensor, others: list[Tensor], size: int) -> list[float]:
    divergence = Divergence(len(reference), len(others))
    for i in range(0, reference.shape[1], size):
        divergence.add(reference[:, i : i + size], [x[:, i : i + size] for x in others])
    return divergence.means()


@given(
    seed=st.integers(0, 999),
    size=st.integers(1, 60),
    scale=st.sampled_from((0.1, 5.0, 80.0)),
    noise=st.sampled_from((1e-3, 1.0)),
)
def test_slices_of_any_size_give_the_same_divergence(
    seed: int, size: int, scale: float, noise: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(4, 50, generator=generator) * scale
    others = [reference + torch.randn(4, 50, generator=generator) * noise for _ in range(3)]
    expected = torch.tensor([directly(reference, x) for x in others])
    found = torch.tensor(by_slices(reference, others, size))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_equal_predictions_do_not_diverge() -> None:
    logits = torch.randn(8, 300, generator=torch.Generator().manual_seed(0)) * 20 + 1000
    [same, shifted] = by_slices(logits, [logits, logits + 4], 32)
    assert abs(same) < 1e-12
    assert abs(shifted) < 1e-12  # a constant changes no prediction


def test_differences_of_a_thousandth_are_seen_in_large_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(8, 300, generator=generator) * 20).double()
    other = logits + 1e-3 * torch.randn(8, 300, generator=generator)
    [found] = by_slices(logits, [other], 32)
    expected = directly(logits, other)
    assert 0 < expected < 1e-5
    assert abs(found / expected - 1) < 1e-6
