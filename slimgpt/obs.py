"""The Optimal Brain Surgeon for groups of columns: pure functions on tensors.

Letters are the paper's (SlimGPT, arXiv 2412.18110). A linear layer has weights W (out x in) and
inputs X (in x tokens); H = X X' is its Gram matrix, up to a scale that changes no choice. Removing
the input columns S and refitting the others K perfectly gives

* the update    dW   = -W[:,S] (H^-1[S,S])^-1 H^-1[S,:]
* its error     E(S) = tr(W[:,S] (H^-1[S,S])^-1 W[:,S]') = ||dW X||^2
* and equally   W'[:,K] = (W H)[:,K] (H[K,K])^-1, the refit.

Eliminating sets one after the other, with H^-1 downdated in between, ends at the same W' as
eliminating their union at once; only which columns are chosen depends on the order.

A *unit* is a set of columns that goes together: the columns of a head, or one FFN neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

DampingReference = Literal["mean", "median"]


class NotPositiveDefinite(ArithmeticError):
    """H, or what is left of its inverse, has no Cholesky factor: more damping is needed."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed and what became of the weights.

    Attributes:
        units: removed units in the order of their removal.
        weight: W with removed columns zero and the others compensated.
    """

    units: tuple[int, ...]
    weight: Float[Tensor, "out in"]


def damping_term(H: Float[Tensor, "in in"], relative: float, reference: DampingReference) -> float:
    """lambda = relative * mean or median of diag(H) over columns that are ever active.

    The paper and its kin use the mean; one massive activation channel can raise the mean a
    thousandfold, and the median not at all.
    """
    live = H.diagonal()[~dead_columns(H)]
    if live.numel() == 0:
        return relative
    middle = live.mean() if reference == "mean" else live.median()
    return relative * float(middle)


def dead_columns(H: Float[Tensor, "in in"]) -> Bool[Tensor, " in"]:
    """Inputs that are zero for every token: they cost nothing to remove."""
    return H.diagonal() == 0


def damped(H: Float[Tensor, "in in"], term: float) -> Float[Tensor, "in in"]:
    """H in float64 with ``term`` added to its diagonal and 1 put where a column is dead."""
    out = H.to(torch.float64, copy=True)
    diagonal = out.diagonal()
    diagonal.add_(term)
    diagonal[dead_columns(H)] = 1.0
    return out


def damped_inverse(H: Float[Tensor, "n n"], term: float) -> Float[Tensor, "n n"]:
    """(H + term I)^-1 in float64, by Cholesky in one buffer: for a wide FFN it is the peak memory.

    Raises:
        NotPositiveDefinite: there is no Cholesky factor.
    """
    A = _symmetric_factor_(damped(H, term))
    Hinv: Tensor = torch.cholesky_inverse(A, out=A)
    return Hinv


def _symmetric_factor_(A: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Lower Cholesky factor of a symmetric matrix, in place of it.

    LAPACK works on columns; the transpose of a symmetric row-major matrix is the same matrix with
    its columns in order, and spares torch a copy.
    """
    columns = A.mT
    info = torch.empty((), dtype=torch.int32, device=A.device)
    torch.linalg.cholesky_ex(columns, out=(columns, info))
    return _checked(columns, info)


def _cholesky(A: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    L, info = torch.linalg.cholesky_ex(A)
    return _checked(L, info)


def _checked(L: Tensor, info: Tensor) -> Tensor:
    if bool(info.any()) or not bool(torch.isfinite(L.diagonal(dim1=-2, dim2=-1)).all()):
        raise NotPositiveDefinite
    return L


def exact_scores(
    W: Float[Tensor, "out in"], Hinv: Float[Tensor, "in in"], units: Int[Tensor, "units size"]
) -> Float[Tensor, " units"]:
    """E(S) of each unit alone: ||L^-1 W[:,S]'||^2 with L L' = H^-1[S,S], one batched solve."""
    if units.shape[1] == 1:
        S = units[:, 0]
        # Norms of all columns: gathering some of a wide W would cost a copy in every round.
        norms: Tensor = torch.linalg.vector_norm(W, dim=0)
        return norms[S].square() / Hinv.diagonal()[S]
    L = _cholesky(_blocks(Hinv, units))
    half: Tensor = torch.linalg.solve_triangular(L, W.T[units], upper=False)
    return half.square().sum((1, 2))


def grouped_cholesky_scores(
    W: Float[Tensor, "out in"], Hinv: Float[Tensor, "in in"], units: Int[Tensor, "units size"]
) -> Float[Tensor, " units"]:
    """The paper's grouped Cholesky score: sum over p of ||W[:,p]||^2 / L[p,p]^2.

    It takes the weights as they are, not as they will be when the columns before p are gone, and
    comes to 0.4 to 0.5 of the true error; exact for units of one column.
    """
    L = _cholesky(_blocks(Hinv, units))
    norms = W.square().sum(dim=0)[units]
    scores: Tensor = (norms / L.diagonal(dim1=-2, dim2=-1).square()).sum(dim=1)
    return scores


def _blocks(
    A: Float[Tensor, "in in"], units: Int[Tensor, "units size"]
) -> Float[Tensor, "units size size"]:
    return A[units[:, :, None], units[:, None, :]]


def eliminate_(
    W: Float[Tensor, "out in"], Hinv: Float[Tensor, "in in"], S: Int[Tensor, " size"]
) -> float:
    """Removes the columns S in place: compensates W, downdates H^-1, zeroes what is gone.

    Returns:
        E(S), the error this removal adds.

    Raises:
        NotPositiveDefinite: H^-1[S,S] has no Cholesky factor.
    """
    L = _cholesky(Hinv[S][:, S])
    rows, removed = Hinv[S, :], W[:, S]
    step = torch.cholesky_solve(rows, L)
    error = float((removed * torch.cholesky_solve(removed.T.contiguous(), L).T).sum())
    W.addmm_(removed, step, alpha=-1)
    Hinv.addmm_(rows.T, step, alpha=-1)
    W[:, S] = 0
    Hinv[S, :] = 0
    Hinv[:, S] = 0
    return error


def removal_error(
    W: Float[Tensor, "out in"], Hinv: Float[Tensor, "in in"], S: Int[Tensor, " size"]
) -> float:
    """E(S) = tr(W[:,S] (H^-1[S,S])^-1 W[:,S]'): the least error any W' without S can have."""
    L = _cholesky(Hinv[S][:, S])
    removed = W[:, S].T.contiguous()
    return float((removed * torch.cholesky_solve(removed, L)).sum())


def output_error(dW: Float[Tensor, "out in"], H: Float[Tensor, "in in"]) -> float:
    """||dW X||^2 = tr(dW H dW')."""
    return float(((dW @ H) * dW).sum())


def refit(
    W: Float[Tensor, "out in"], H: Float[Tensor, "in in"], term: float, S: Int[Tensor, " size"]
) -> Float[Tensor, "out in"]:
    """The least-squares weights without the columns S, from the original W: zero at S.

    W'[:,K] = W[:,K] + (W[:,S] H[S,K]) (H[K,K] + term I)^-1, which is (W H)[:,K] (H[K,K])^-1 with
    the part that cancels left out. The same optimum as the sequence of eliminations, without
    their accumulated rounding.

    Raises:
        NotPositiveDefinite: H[K,K] + term I has no Cholesky factor.
    """
    K = _others(S, W.shape[1])
    L = _symmetric_factor_(damped(H[K][:, K], term))
    lost = H[K][:, S].to(W.dtype) @ W[:, S].T.contiguous()
    out = W.clone()
    out[:, S] = 0
    out[:, K] += torch.cholesky_solve(lost, L).T
    return out


def _others(S: Int[Tensor, " size"], width: int) -> Int[Tensor, " others"]:
    keep = torch.ones(width, dtype=torch.bool, device=S.device)
    keep[S] = False
    return torch.nonzero(keep)[:, 0]


def paper_group_sizes(total: int) -> Iterator[int]:
    """Dynamic Group Size of the paper's code: columns removed a round, large first.

    >>> list(paper_group_sizes(688))[:3], sum(paper_group_sizes(688))
    ([88, 64, 64], 688)
    """
    budget, done = (total - 512) // 2, 0
    while done < total:
        size = min(total - done, max(budget, 64), 1024)
        yield size
        done += size
        budget = (budget - 512) // 2


def gradual_group_sizes(total: int) -> Iterator[int]:
    """A sixteenth of what is left to remove, at least one column and at most 1024.

    >>> list(gradual_group_sizes(40))[:4], sum(gradual_group_sizes(40))
    ([2, 2, 2, 2], 40)
    """
    left = total
    while left:
        size = min(1024, max(1, left // 16))
        yield size
        left -= size


def _remove_cheapest_(
    W: Float[Tensor, "out in"],
    Hinv: Float[Tensor, "in in"],
    units: Int[Tensor, "units size"],
    count: int,
    allowed: Bool[Tensor, " units"],
    score: Callable[..., Tensor],
) -> list[int]:
    """One round of the greedy removal, in place: the ``count`` allowed units of least score."""
    alive = torch.nonzero(allowed)[:, 0]
    cheapest = torch.argsort(score(W, Hinv, units[alive]), stable=True)[:count]
    chosen: list[int] = alive[cheapest].tolist()
    eliminate_(W, Hinv, units[chosen].flatten())
    return chosen


def remove_exact(
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"],
    term: float,
    units: Int[Tensor, "units size"],
    sizes: Sequence[int],
    allowed: Callable[[list[int]], Bool[Tensor, " units"]],
) -> Removal:
    """Greedy removal by exact score, one inversion with downdates, refit from the original.

    Args:
        W: weights, float64, zero in dead columns.
        H: Gram matrix.
        term: put on its diagonal throughout; see :func:`damping_term`.
        units: columns of each unit.
        sizes: how many units to remove in each round.
        allowed: which units may go next, given those gone.

    Raises:
        NotPositiveDefinite: H needs more damping.
    """
    V, Hinv = W.clone(), damped_inverse(H, term)
    gone: list[int] = []
    for size in sizes:
        gone += _remove_cheapest_(V, Hinv, units, size, allowed(gone), exact_scores)
    del V, Hinv  # before the refit makes buffers of its own
    return Removal(tuple(gone), refit(W, H, term, units[gone].flatten()))


def remove_paper(
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"],
    term: float,
    units: Int[Tensor, "units size"],
    sizes: Sequence[int],
    allowed: Callable[[list[int]], Bool[Tensor, " units"]],
) -> Removal:
    """Algorithm 1 of the paper: invert anew each round, grouped Cholesky scores, exact update.

    Arguments and errors as :func:`remove_exact`. The paper sets H of removed columns to the
    identity before inverting; inverting the block of the others is the same and cheaper.
    """
    V = W.clone()
    gone: list[int] = []
    for size in sizes:
        left = _others(units[gone].flatten(), W.shape[1])
        Hinv = torch.zeros_like(H, dtype=torch.float64)
        Hinv[left[:, None], left] = damped_inverse(H[left][:, left], term)
        gone += _remove_cheapest_(V, Hinv, units, size, allowed(gone), grouped_cholesky_scores)
    return Removal(tuple(gone), V)
