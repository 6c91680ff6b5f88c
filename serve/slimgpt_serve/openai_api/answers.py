"""Answers in OpenAI's form: whole documents, and the chunks of streams."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slimgpt_serve.onnx_runtime.tokens import UNFINISHED
from slimgpt_serve.openai_api.events import Piece, ScoredToken


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request.

    Attributes:
        prompt: of all prompts, each counted once.
        completion: of all answers, with the tokens that ended them.
    """

    prompt: int
    completion: int

    def to_json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass(slots=True)
class CompletionForm:
    """How /v1/completions answers.

    Attributes:
        model: the name that the client uses.
        echoes: a text for each answer to put before it; empty where none is wanted.
    """

    model: str
    echoes: Sequence[str] = ()
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _offsets: dict[int, int] = field(default_factory=dict)

    def opening(self, answers: int) -> list[dict[str, Any]]:
        """What a stream begins with: the echoes."""
        return [
            self._chunk([self._choice(index, text, (), None)])
            for index, text in enumerate(self.echoes[:answers])
        ]

    def part(self, piece: Piece) -> dict[str, Any]:
        """A chunk of a stream."""
        return self._chunk(
            [self._choice(piece.index, piece.text, piece.scores, piece.finish_reason)]
        )

    def last(self, usage: Usage) -> dict[str, Any]:
        """The chunk that ends a stream whose client asked for the usage."""
        return self._chunk([]) | {"usage": usage.to_json()}

    def whole(self, answers: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        """The document with all answers."""
        echoes = self.echoes or [""] * len(answers)
        choices = [
            self._choice(a.index, echo + a.text, a.scores, a.finish_reason)
            for echo, a in zip(echoes, answers, strict=True)
        ]
        return self._chunk(choices) | {"usage": usage.to_json()}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _choice(
        self, index: int, text: str, scores: Sequence[ScoredToken], reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, scores) if scores else None,
            "finish_reason": reason,
        }

    def _logprobs(self, index: int, scores: Sequence[ScoredToken]) -> dict[str, Any]:
        offsets = []
        for token in scores:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.text)
        return {
            "tokens": [token.text for token in scores],
            "token_logprobs": [token.logprob for token in scores],
            # The picked token is told of even where it is not among the likeliest.
            "top_logprobs": [
                dict(token.alternatives) | {token.text: token.logprob} for token in scores
            ],
            "text_offset": offsets,
        }


@dataclass(slots=True)
class ChatForm:
    """How /v1/chat/completions answers.

    Attributes:
        model: the name that the client uses.
    """

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self, answers: int) -> list[dict[str, Any]]:
        """What a stream begins with: whose turn it is, for each answer."""
        beginning = {"role": "assistant", "content": ""}
        return [self._delta(index, beginning, (), None) for index in range(answers)]

    def part(self, piece: Piece) -> dict[str, Any]:
        """A chunk of a stream."""
        text = {"content": piece.text} if piece.text else {}
        return self._delta(piece.index, text, piece.scores, piece.finish_reason)

    def last(self, usage: Usage) -> dict[str, Any]:
        """The chunk that ends a stream whose client asked for the usage."""
        return self._document("chat.completion.chunk", []) | {"usage": usage.to_json()}

    def whole(self, answers: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        """The document with all answers."""
        choices = [
            {
                "index": answer.index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": _chat_logprobs(answer.scores),
                "finish_reason": answer.finish_reason,
            }
            for answer in answers
        ]
        return self._document("chat.completion", choices) | {"usage": usage.to_json()}

    def _delta(
        self,
        index: int,
        delta: Mapping[str, str],
        scores: Sequence[ScoredToken],
        reason: str | None,
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": _chat_logprobs(scores),
            "finish_reason": reason,
        }
        return self._document("chat.completion.chunk", [choice])

    def _document(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


Form = CompletionForm | ChatForm


def _chat_logprobs(scores: Sequence[ScoredToken]) -> dict[str, Any] | None:
    if not scores:
        return None
    return {
        "content": [
            _entry(token.text, token.logprob)
            | {"top_logprobs": [_entry(*other) for other in token.alternatives]}
            for token in scores
        ]
    }


def _entry(text: str, logprob: float) -> dict[str, Any]:
    # Part of a character has bytes that its text does not tell; null is OpenAI's word for that.
    known = None if UNFINISHED in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": known}
