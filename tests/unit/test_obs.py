"""The maths against brute force, in float64."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimgpt import obs

RELATIVE = 1e-9


def problem(
    seed: int = 0, inputs: int = 12, outputs: int = 5, tokens: int = 60
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, correlated inputs and their Gram matrix, float64."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=g, dtype=torch.float64)
    X = mix @ torch.randn(inputs, tokens, generator=g, dtype=torch.float64)
    W = torch.randn(outputs, inputs, generator=g, dtype=torch.float64)
    return W, X, X @ X.T


def heads(inputs: int = 12, size: int = 3) -> Tensor:
    return torch.arange(inputs).view(-1, size)


def neurons(inputs: int = 12) -> Tensor:
    return torch.arange(inputs)[:, None]


def any_left(units: Tensor):
    def allowed(gone: list[int]) -> Tensor:
        mask = torch.ones(len(units), dtype=torch.bool)
        mask[gone] = False
        return mask

    return allowed


def least_squares_error(W: Tensor, X: Tensor, removed: list[int]) -> float:
    """The least ||W' X - W X||^2 over all W' that are zero on ``removed``, by lstsq."""
    kept = [i for i in range(W.shape[1]) if i not in removed]
    target = (W @ X).T
    fit = torch.linalg.lstsq(X[kept].T, target).solution
    return float((X[kept].T @ fit - target).square().sum())


def columns(units: Tensor, chosen: tuple[int, ...] | list[int]) -> list[int]:
    return units[list(chosen)].flatten().tolist()


@pytest.mark.parametrize("removed", [[3], [0, 11], [1, 2, 3, 4, 7]])
def test_predicted_error_is_the_least_squares_error(removed):
    W, X, H = problem()
    predicted = obs.removal_error(W, obs.damped_inverse(H, 0.0), torch.tensor(removed))
    assert predicted == pytest.approx(least_squares_error(W, X, removed), rel=RELATIVE)


def test_elimination_adds_up_to_the_predicted_error_and_to_the_measured_one():
    W, X, H = problem()
    V, Hinv = W.clone(), obs.damped_inverse(H, 0.0)
    parts = [obs.eliminate_(V, Hinv, torch.tensor(S)) for S in ([2, 5], [0], [7, 8, 9])]
    measured = float(((V - W) @ X).square().sum())
    assert sum(parts) == pytest.approx(measured, rel=RELATIVE)
    union = torch.tensor([2, 5, 0, 7, 8, 9])
    assert measured == pytest.approx(
        obs.removal_error(W, obs.damped_inverse(H, 0.0), union), rel=RELATIVE
    )


def test_refit_equals_the_sequence_of_eliminations():
    W, _, H = problem(1)
    V, Hinv = W.clone(), obs.damped_inverse(H, 0.0)
    for S in ([4], [1, 6], [10]):
        obs.eliminate_(V, Hinv, torch.tensor(S))
    refitted = obs.refit(W, H, 0.0, torch.tensor([4, 1, 6, 10]))
    torch.testing.assert_close(refitted, V, rtol=RELATIVE, atol=1e-9)


def test_refit_is_the_textbook_formula():
    W, _, H = problem(14)
    kept = [0, 2, 3, 5, 7, 8, 9, 11]
    expected = (W @ H)[:, kept] @ torch.linalg.inv(H[kept][:, kept])
    refitted = obs.refit(W, H, 0.0, torch.tensor([4, 1, 6, 10]))
    torch.testing.assert_close(refitted[:, kept], expected, rtol=1e-8, atol=1e-9)


def test_the_inverse_is_computed_in_place_and_right():
    _, _, H = problem(15)
    expected = torch.linalg.inv(H + 2.0 * torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(obs.damped_inverse(H, 2.0), expected, rtol=1e-8, atol=1e-12)


def test_downdated_inverse_is_the_inverse_of_what_is_left():
    W, _, H = problem(2)
    Hinv = obs.damped_inverse(H, 0.0)
    obs.eliminate_(W, Hinv, torch.tensor([0, 5]))
    left = [i for i in range(12) if i not in (0, 5)]
    expected = torch.linalg.inv(H[left][:, left])
    torch.testing.assert_close(Hinv[left][:, left], expected, rtol=1e-8, atol=1e-12)


def test_exact_scores_are_the_error_of_each_unit_alone():
    W, X, H = problem(3)
    for units in (heads(), neurons()):
        scores = obs.exact_scores(W, obs.damped_inverse(H, 0.0), units)
        expected = [least_squares_error(W, X, columns(units, [i])) for i in range(len(units))]
        torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


def test_grouped_cholesky_scores_follow_the_paper_column_by_column():
    W, _, H = problem(4)
    Hinv, units = obs.damped_inverse(H, 0.0), heads()
    expected = []
    for unit in units:
        L = torch.linalg.cholesky(Hinv[unit][:, unit])
        expected.append(sum(W[:, p].square().sum() / L[i, i] ** 2 for i, p in enumerate(unit)))
    torch.testing.assert_close(obs.grouped_cholesky_scores(W, Hinv, units), torch.stack(expected))


def test_grouped_cholesky_scores_fall_short_of_the_true_error():
    """Why the default scores exactly: weights change inside a head while it is removed."""
    short = []
    for seed in range(20):
        W, _, H = problem(seed, inputs=24, outputs=16, tokens=200)
        Hinv, units = obs.damped_inverse(H, 0.0), heads(24, 8)
        short.append(obs.grouped_cholesky_scores(W, Hinv, units) / obs.exact_scores(W, Hinv, units))
    assert torch.cat(short).mean() < 0.8


def test_both_scores_agree_on_units_of_one_column():
    W, _, H = problem(5)
    Hinv = obs.damped_inverse(H, 0.0)
    torch.testing.assert_close(
        obs.grouped_cholesky_scores(W, Hinv, neurons()), obs.exact_scores(W, Hinv, neurons())
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("units", [heads(), neurons()], ids=["heads", "neurons"])
def test_each_greedy_choice_is_the_best_next_one_of_an_exhaustive_search(seed, units):
    W, X, H = problem(seed)
    removal = obs.remove_exact(W, H, 0.0, units, [1] * 3, any_left(units))
    gone: list[int] = []
    for unit in removal.units:
        others = [u for u in range(len(units)) if u not in gone]
        errors = {u: least_squares_error(W, X, columns(units, [*gone, u])) for u in others}
        assert min(errors, key=errors.__getitem__) == unit
        gone.append(unit)


@pytest.mark.parametrize("seed", range(6))
def test_one_removed_head_is_the_best_of_all(seed):
    W, X, H = problem(seed)
    (unit,) = obs.remove_exact(W, H, 0.0, heads(), [1], any_left(heads())).units
    errors = [least_squares_error(W, X, columns(heads(), [u])) for u in range(4)]
    assert unit == errors.index(min(errors))


def test_greedy_removal_is_close_to_the_best_subset():
    W, X, H = problem(7, inputs=10)
    removal = obs.remove_exact(W, H, 0.0, neurons(10), [1] * 4, any_left(neurons(10)))
    best = min(least_squares_error(W, X, list(S)) for S in combinations(range(10), 4))
    assert least_squares_error(W, X, list(removal.units)) <= 2 * best


@pytest.mark.parametrize("remove", [obs.remove_exact, obs.remove_paper])
@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [3, 1], [4]])
def test_weights_after_removal_are_optimal_for_what_is_left(remove, sizes):
    W, X, H = problem(8)
    removal = remove(W, H, 0.0, neurons(), sizes, any_left(neurons()))
    measured = float(((removal.weight - W) @ X).square().sum())
    least = least_squares_error(W, X, list(removal.units))
    assert measured == pytest.approx(least, rel=1e-8)
    assert (removal.weight[:, list(removal.units)] == 0).all()


@given(seed=st.integers(0, 10_000), count=st.integers(1, 8))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_compensation_beats_truncation(seed, count):
    W, _, H = problem(seed)
    removal = obs.remove_exact(W, H, 0.0, neurons(), [1] * count, any_left(neurons()))
    truncated = W.clone()
    truncated[:, list(removal.units)] = 0
    assert obs.output_error(removal.weight - W, H) < obs.output_error(truncated - W, H)


def test_the_paper_removes_with_identity_in_place_of_what_is_gone():
    """Inverting the block of the survivors is what the paper's identity trick computes."""
    W, _, H = problem(9)
    removal = obs.remove_paper(W, H, 0.0, heads(), [1, 1], any_left(heads()))
    V, G = W.clone(), H.clone()
    gone: list[int] = []
    for _ in range(2):
        Hinv = torch.linalg.inv(G)
        scores = obs.grouped_cholesky_scores(V, Hinv, heads())
        scores[gone] = torch.inf
        unit = int(scores.argmin())
        S = heads()[unit]
        V = V - V[:, S] @ torch.linalg.inv(Hinv[S][:, S]) @ Hinv[S, :]
        G[S, :] = G[:, S] = 0
        G[S, S] = 1
        gone.append(unit)
    assert removal.units == tuple(gone)
    torch.testing.assert_close(removal.weight, V, rtol=1e-8, atol=1e-9)


def test_damping_keeps_predicted_and_penalised_error_equal():
    W, _, H = problem(10)
    removal = obs.remove_exact(W, H, 3.0, neurons(), [2, 2], any_left(neurons()))
    dW = removal.weight - W
    penalised = obs.output_error(dW, H) + 3.0 * float(dW.square().sum())
    predicted = obs.removal_error(W, obs.damped_inverse(H, 3.0), torch.tensor(removal.units))
    assert penalised == pytest.approx(predicted, rel=RELATIVE)


def test_dead_columns_go_first_and_cost_nothing():
    W, X, _ = problem(11)
    X[[4, 9]] = 0
    H = X @ X.T
    W[:, obs.dead_columns(H)] = 0
    removal = obs.remove_exact(W, H, 0.0, neurons(), [1, 1, 1], any_left(neurons()))
    assert set(removal.units[:2]) == {4, 9}
    assert least_squares_error(W, X, [4, 9]) == pytest.approx(0, abs=1e-9)


def test_median_damping_ignores_a_massive_activation_that_hijacks_the_mean():
    _, _, H = problem(12)
    H = H / H.diagonal().median()
    massive = H.clone()
    massive[0, 0] = 5000.0
    assert obs.damping_term(massive, 0.01, "median") < 0.02
    assert obs.damping_term(massive, 0.01, "mean") > 1


def test_a_singular_matrix_is_reported_and_damping_mends_it():
    W, X, _ = problem(13, tokens=4)
    H = X @ X.T
    with pytest.raises(obs.NotPositiveDefinite):
        obs.remove_exact(W, H, 0.0, neurons(), [1], any_left(neurons()))
    obs.remove_exact(W, H, 1e-3, neurons(), [1], any_left(neurons()))


@pytest.mark.parametrize(
    ("total", "first", "rounds"),
    [
        (5504, [1024, 992, 240, 64], 54),
        (2752, [1024, 304, 64, 64], 25),
        (2202, [845, 166, 64, 64], 21),
        (688, [88, 64, 64, 64], 11),
    ],
)
def test_paper_group_sizes_are_those_of_its_code(total, first, rounds):
    sizes = list(obs.paper_group_sizes(total))
    assert sizes[:4] == first
    assert len(sizes) == rounds
    assert sum(sizes) == total


@pytest.mark.parametrize("sizes", [obs.paper_group_sizes, obs.gradual_group_sizes])
@pytest.mark.parametrize("total", [0, 1, 63, 64, 513, 40_000])
def test_group_sizes_add_up_and_never_exceed_the_largest_group(sizes, total):
    groups = list(sizes(total))
    assert sum(groups) == total
    assert all(1 <= g <= 1024 for g in groups)


def test_shapes_are_checked_while_testing():
    W, _, H = problem()
    with pytest.raises(Exception, match="Type-check"):
        obs.output_error(W, H[:5])
