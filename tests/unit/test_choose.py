"""From target widths to removals: quotas, and damping that rises only when it must."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimgpt.errors import IntegrityError
from slimgpt.prune.choose import METHODS, choose_heads, choose_neurons
from slimgpt.shape import LayerShape

HEAD_DIM = 4
GQA = LayerShape(12, 3, 8)


def problem(width: int, tokens: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights and a Gram matrix in float32, as the driver has them."""
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(width, tokens, generator=g)
    return torch.randn(16, width, generator=g), X @ X.T


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_keeping_kv_heads_takes_the_same_number_from_every_group(method, seed):
    W, H = problem(12 * HEAD_DIM, seed=seed)
    target = LayerShape(6, 3, 8)
    kept, _ = choose_heads(METHODS[method], W, H, GQA, target, HEAD_DIM, "keep", 1e-2)
    assert kept.kv == (0, 1, 2)
    assert [sum(q // 4 == group for q in kept.query) for group in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_pruning_kv_heads_takes_whole_groups(method):
    W, H = problem(12 * HEAD_DIM)
    target = LayerShape(8, 2, 8)
    kept, _ = choose_heads(METHODS[method], W, H, GQA, target, HEAD_DIM, "prune", 1e-2)
    assert len(kept.kv) == 2
    assert kept.query == tuple(q for g in kept.kv for q in range(4 * g, 4 * g + 4))


def test_damping_stays_as_asked_where_it_suffices():
    W, H = problem(24)
    assert choose_neurons(METHODS["exact"], W, H, 6, 1e-3)[1] == 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_damping_rises_tenfold_until_the_matrix_can_be_inverted(method):
    W, H = problem(24, tokens=5)
    kept, used = choose_neurons(METHODS[method], W, H, 6, 0.0)
    assert used > 0
    assert len(kept.neurons) == 18
    assert kept.down is not None
    assert bool(kept.down.isfinite().all())


def test_a_matrix_that_no_damping_mends_is_refused_with_advice():
    W, H = problem(24)
    with pytest.raises(IntegrityError, match="calibrate on more"):
        choose_neurons(METHODS["exact"], W, -H, 6, 1e-2)


def test_overflowing_activations_are_refused_before_damping_hides_them():
    W, H = problem(24)
    H[3, 3] = torch.inf
    with pytest.raises(IntegrityError, match="float32"):
        choose_neurons(METHODS["exact"], W, H, 6, 1e-2)


def test_neurons_that_never_fire_go_first():
    W, H = problem(24)
    H[[2, 7], :] = H[:, [2, 7]] = 0
    kept, _ = choose_neurons(METHODS["exact"], W, H, 2, 1e-2)
    assert set(range(24)) - set(kept.neurons) == {2, 7}
