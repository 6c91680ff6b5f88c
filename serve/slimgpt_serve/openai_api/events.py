"""What the engine is asked for, and what it sends back while it generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slimgpt_serve.onnx_runtime.sampling import SamplingOptions


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer to be generated.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: most tokens of the answer; with the prompt within the capacity.
        sampling: how each token is picked.
        stop_strings: end the answer, and are not part of it.
        end_ids: tokens that end it.
        alternatives: log-probabilities to tell beside that of each token; None for none at all.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingOptions
    stop_strings: tuple[str, ...] = ()
    end_ids: frozenset[int] = frozenset()
    alternatives: int | None = None


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with log-probabilities: natural logarithms, of the model's own distribution.

    Attributes:
        text: the token alone.
        logprob: of this token.
        alternatives: the likeliest tokens and theirs.
    """

    text: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """The next of an answer.

    Attributes:
        index: which of the answers that were asked for together.
        text: may be empty.
        tokens: how many were generated since the last piece.
        scores: of these tokens, where they were asked for.
        finish_reason: ``stop`` or ``length``, with the last piece alone.
    """

    index: int
    text: str
    tokens: int
    scores: tuple[ScoredToken, ...] = field(default=())
    finish_reason: str | None = None

    @classmethod
    def joined(cls, pieces: Sequence[Piece]) -> Piece:
        """One of several that follow each other, for a reader that is slower than the engine."""
        return cls(
            pieces[0].index,
            "".join(piece.text for piece in pieces),
            sum(piece.tokens for piece in pieces),
            tuple(score for piece in pieces for score in piece.scores),
            pieces[-1].finish_reason,
        )


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing more will come.

    Attributes:
        message: why, for the client.
        status: of HTTP: 500 for this request's own trouble, 503 for the server's.
    """

    message: str
    status: int


Event = Piece | Failed
