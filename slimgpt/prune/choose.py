"""Which heads and neurons go: from a layer's target widths to calls of the pure maths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slimgpt import obs
from slimgpt.errors import IntegrityError
from slimgpt.planning import KvHeads
from slimgpt.prune.cut import KeptHeads, KeptNeurons
from slimgpt.shape import LayerShape

_MOST_DAMPING = 10.0
_LEAST_RETRY = 1e-6


@dataclass(frozen=True, slots=True)
class Method:
    """A way to remove units.

    Attributes:
        remove: one of the greedy removals of slimgpt.obs.
        neuron_groups: how many neurons go in each round, given how many go in all.
        reference: what damping is relative to.
        damping: the default.
    """

    remove: Callable[..., obs.Removal]
    neuron_groups: Callable[[int], Iterator[int]]
    reference: obs.DampingReference
    damping: float


METHODS: dict[str, Method] = {
    "exact": Method(obs.remove_exact, obs.gradual_group_sizes, "median", 1e-2),
    "slimgpt": Method(obs.remove_paper, obs.paper_group_sizes, "mean", 1e-2),
}
"""``slimgpt`` is the paper's algorithm; ``exact`` is the default."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Removed units, compensated weights, and the damping (relative) that it took."""

    removal: obs.Removal
    damping: float


def choose_heads(
    method: Method,
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"],
    layer: LayerShape,
    target: LayerShape,
    head_dim: int,
    kv_heads: KvHeads,
    damping: float,
) -> tuple[KeptHeads, float]:
    """Heads to keep so that a layer reaches its target, whole groups or equally many of each.

    Args:
        method: how to choose and compensate.
        W: output projection.
        H: Gram matrix of its inputs.
        layer: query and KV heads now.
        target: query and KV heads to reach.
        head_dim: width of one head.
        kv_heads: ``prune`` takes whole KV groups, ``keep`` the same number from every group.
        damping: relative; raised tenfold as often as it takes.

    Returns:
        what to keep, and the damping used.
    """
    group = layer.group_size
    columns = torch.arange(W.shape[1], device=H.device)
    if kv_heads == "prune":
        units = columns.view(layer.kv_heads, -1)
        sizes, quota = [1] * (layer.kv_heads - target.kv_heads), 1
        outcome = _remove(method, W, H, units, sizes, _Quota(units, 1, quota), damping)
        kv = _others(layer.kv_heads, outcome.removal.units)
        query = tuple(g * group + i for g in kv for i in range(group))
    else:
        units = columns.view(layer.query_heads, head_dim)
        sizes, quota = [1] * (layer.query_heads - target.query_heads), group - target.group_size
        outcome = _remove(method, W, H, units, sizes, _Quota(units, group, quota), damping)
        kv = tuple(range(layer.kv_heads))
        query = _others(layer.query_heads, outcome.removal.units)
    return KeptHeads(query, kv, outcome.removal.weight), outcome.damping


def choose_neurons(
    method: Method,
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"],
    count: int,
    damping: float,
) -> tuple[KeptNeurons, float]:
    """Neurons to keep when ``count`` of them go; arguments and result as choose_heads."""
    units = torch.arange(W.shape[1], device=H.device)[:, None]
    sizes = list(method.neuron_groups(count))
    outcome = _remove(method, W, H, units, sizes, _Quota(units, 1, 1), damping)
    return KeptNeurons(
        _others(W.shape[1], outcome.removal.units), outcome.removal.weight
    ), outcome.damping


@dataclass(frozen=True, slots=True)
class _Quota:
    """Which units may still go: at most ``quota`` of each ``group`` neighbours."""

    units: Tensor
    group: int
    quota: int

    def __call__(self, gone: list[int]) -> Tensor:
        count = self.units.shape[0]
        removed = torch.zeros(count, dtype=torch.bool, device=self.units.device)
        removed[gone] = True
        full = removed.view(-1, self.group).sum(dim=1) >= self.quota
        return ~removed & ~full.repeat_interleave(self.group)


def _remove(
    method: Method,
    W: Float[Tensor, "out in"],
    H: Float[Tensor, "in in"],
    units: Int[Tensor, "units size"],
    sizes: list[int],
    allowed: _Quota,
    damping: float,
) -> Outcome:
    """Runs a method with as little damping as it takes, from what was asked upwards.

    Raises:
        IntegrityError: H holds NaN or infinity, or no damping makes it positive definite.
    """
    if not bool(H.isfinite().all()):
        raise IntegrityError(
            "the activations overflow or are no numbers: the weights are damaged, or --dtype "
            "float32 is needed"
        )
    W = W.to(torch.float64, copy=True)
    W[:, obs.dead_columns(H)] = 0
    while damping <= _MOST_DAMPING:
        try:
            term = obs.damping_term(H, damping, method.reference)
            return Outcome(method.remove(W, H, term, units, sizes, allowed), damping)
        except obs.NotPositiveDefinite:
            damping = max(damping * 10, _LEAST_RETRY)
    raise IntegrityError(
        f"the Gram matrix stays singular at damping {_MOST_DAMPING:g}: calibrate on more, or more "
        "varied, text (--samples, --calibration)"
    )


def _others(count: int, removed: tuple[int, ...]) -> tuple[int, ...]:
    gone = set(removed)
    return tuple(i for i in range(count) if i not in gone)
