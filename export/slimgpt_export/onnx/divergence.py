"""KL between predictions over large vocabularies, from a slice of the logits at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


class Divergence:
    """KL(reference || other) of several others.

    Kept of each position: the log of the sum of exponentials of the logits so far, and the mean of
    the differences of the logits under what the reference predicts so far. In float64: with int8
    weights KL is a millionth of a logit.

    Args:
        positions: predictions that are compared.
        others: how many.
    """

    def __init__(self, positions: int, others: int) -> None:
        self._reference = torch.full((positions,), float("-inf"), dtype=torch.float64)
        self._others = self._reference.repeat(others, 1)
        self._differences = torch.zeros_like(self._others)

    def add(
        self,
        reference: Float[Tensor, "positions slice"],
        others: Iterable[Float[Tensor, "positions slice"]],
    ) -> None:
        """Takes the next slice of all logits."""
        z = reference.double()
        total = torch.logaddexp(self._reference, z.logsumexp(1))
        kept = (self._reference - total).exp()
        share = (z - total[:, None]).exp()
        for i, logits in enumerate(others):
            w = logits.double()
            self._differences[i] = self._differences[i] * kept + (share * (z - w)).sum(1)
            self._others[i] = torch.logaddexp(self._others[i], w.logsumexp(1))
        self._reference = total

    def means(self) -> list[float]:
        """Of each other, nats a position."""
        kl = self._differences - self._reference + self._others
        return [float(x) for x in kl.mean(1)]
