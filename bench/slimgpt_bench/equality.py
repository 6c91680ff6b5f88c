"""Whether two engines say the same, greedily: tokens that differ are set against their margin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TIE = 1e-3
"""Nats: of two tokens whose log-probabilities are nearer than this either is the greedy one."""

TOP = 5
"""Likeliest tokens that an engine tells of each step, among which a tie is looked for."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What an engine says by itself.

    Attributes:
        ids: of the answer.
        top: of each step, the log-probabilities of its likeliest tokens.
    """

    ids: tuple[int, ...]
    top: tuple[Mapping[int, float], ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an answer first leaves the reference.

    Attributes:
        prompt: number of the prompt, from 0.
        position: in the answer, from 0.
        expected: the reference's token.
        found: the other one.
        margin: by how much the reference prefers its own, in nats.
        bounded: the token is not among the likeliest, so that the margin is more than this.
    """

    prompt: int
    position: int
    expected: int
    found: int
    margin: float
    bounded: bool

    def is_tie(self, limit: float) -> bool:
        """Whether rounding decides between the two tokens."""
        return not self.bounded and self.margin <= limit

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "position": self.position,
            "expected": self.expected,
            "found": self.found,
            "margin": self.margin,
            "margin_is_lower_bound": self.bounded,
        }


@dataclass(frozen=True, slots=True)
class Equality:
    """What came of comparing all prompts.

    Attributes:
        prompts: compared.
        ties: answers that leave the reference where two tokens are equally likely.
        differences: answers that leave it elsewhere.
        limit: nats within which two tokens are equally likely.
    """

    prompts: int
    ties: tuple[Difference, ...]
    differences: tuple[Difference, ...]
    limit: float

    @property
    def identical(self) -> int:
        """Prompts whose answers have the same tokens."""
        return self.prompts - len(self.ties) - len(self.differences)

    def to_json(self) -> dict[str, Any]:
        return {
            "prompts": self.prompts,
            "identical": self.identical,
            "ties": len(self.ties),
            "different": len(self.differences),
            "tie_margin": self.limit,
            "first_difference": self.differences[0].to_json() if self.differences else None,
        }


def first_difference(prompt: int, reference: Reference, found: Sequence[int]) -> Difference | None:
    """Where an answer leaves the reference; what follows then has another beginning.

    Raises:
        ValueError: the answers differ in length.
    """
    for position, (own, other) in enumerate(zip(reference.ids, found, strict=True)):
        if own == other:
            continue
        top = reference.top[position]
        known = other in top
        margin = top[own] - (top[other] if known else min(top.values()))
        return Difference(prompt, position, own, other, margin, bounded=not known)
    return None


def compare(
    references: Sequence[Reference], runs: Iterable[Sequence[Sequence[int]]], limit: float
) -> Equality:
    """All prompts of all runs; of a prompt that left the reference in several, the worst counts.

    Args:
        references: one a prompt.
        runs: answers in the same order, as often as they were asked for.
        limit: see :func:`tie_limit`.
    """
    worst: dict[int, Difference] = {}
    for answers in runs:
        for prompt, (reference, found) in enumerate(zip(references, answers, strict=True)):
            left = first_difference(prompt, reference, found)
            if left and (prompt not in worst or worst[prompt].is_tie(limit)):
                worst[prompt] = left
    found_so = [worst[prompt] for prompt in sorted(worst)]
    return Equality(
        len(references),
        tuple(x for x in found_so if x.is_tie(limit)),
        tuple(x for x in found_so if not x.is_tie(limit)),
        limit,
    )


def noise(written: Sequence[Sequence[float]], read: Sequence[Sequence[float]]) -> float:
    """Largest difference of an engine's log-probabilities of the same tokens, computed two ways.

    Args:
        written: token by token.
        read: in one piece, which is how a draft's tokens are checked too.
    """
    return max(
        abs(a - b)
        for one, other in zip(written, read, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def tie_limit(dtype: str, measured_noise: float) -> float:
    """Nats within which rounding may decide between two tokens.

    In 16 bits it is twice what the engine's own log-probabilities differ by: one of the two tokens
    may have gone up, and the other down.
    """
    return TIE if dtype == "float32" else max(TIE, 2 * measured_noise)
