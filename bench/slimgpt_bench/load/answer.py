"""What the events of a streamed answer mean: which chunks hold output, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from slimgpt_bench.load.record import Record

DONE = "[DONE]"
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
_MOST_TOKENS = 10**9


class Answer:
    """One answer while it comes in."""

    def __init__(self) -> None:
        self.failure: tuple[str, str] | None = None
        self._chunks: list[tuple[float, bool]] = []
        """Time of each chunk that may hold output, and whether it has text."""
        self._finish_at: float | None = None
        self._finish: str | None = None
        self._usage: Mapping[str, Any] = {}
        self._done = False

    def feed(self, at: float, data: str) -> None:
        """Takes the data of an event that came at a time."""
        if data.strip() == DONE:
            self._done = True
            return
        try:
            told = json.loads(data)
        except (ValueError, RecursionError):
            self._fail("bad_response", f"an event is no JSON: {data}")
            return
        if not isinstance(told, dict):
            self._fail("bad_response", f"an event is no object: {data}")
        elif told.get("error") or told.get("object") == "error":
            self._fail("error_in_stream", error_text(told))
        else:
            self._take(at, told)

    def _take(self, at: float, told: Mapping[str, Any]) -> None:
        if isinstance(told.get("usage"), dict):
            self._usage = told["usage"]
        choices = told.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if not isinstance(choice, dict):
                self._fail("bad_response", "a choice is no object")
                return
            delta = choice.get("delta")
            delta = delta if isinstance(delta, dict) else {}
            text = choice.get("text") or delta.get("tool_calls")
            text = text or next((delta[k] for k in _TEXTS if delta.get(k)), None)
            reason = choice.get("finish_reason")
            if text:
                self._chunks.append((at, True))
            elif reason:
                self._finish_at = at
            elif "role" not in delta:  # whose turn it is: no output
                self._chunks.append((at, False))
            if isinstance(reason, str):
                self._finish = reason

    def _fail(self, kind: str, detail: str) -> None:
        self.failure = self.failure or (kind, detail)

    def settle(self, record: Record) -> None:
        """Writes down what came, once the stream has ended."""
        record.prompt_tokens = _count(self._usage.get("prompt_tokens"))
        record.output_tokens = _count(self._usage.get("completion_tokens"))
        record.finish_reason = self._finish
        record.texts = sum(has_text for _, has_text in self._chunks)
        record.times = self._output_times(record.output_tokens)
        if self.failure:
            record.failure, record.detail = self.failure
        elif not record.times:
            record.failure = "no_tokens"
            record.detail = (
                f"no text came, and the usage says {record.output_tokens} tokens"
                if record.output_tokens
                else "the stream ended without output"
            )
        elif not self._done and self._finish is None:
            record.failure, record.detail = "truncated", "the stream broke off"
        if record.times:
            last = record.times[-1]
            record.ended = max(last, self._finish_at or last)

    def _output_times(self, tokens: int | None) -> list[float]:
        """When output came.

        A chunk without text may be a token of which no character is complete, or nothing at all.
        It counts where there are exactly as many chunks as tokens, since each is one then.
        """
        all_of_them = [at for at, _ in self._chunks]
        with_end = all_of_them + ([self._finish_at] if self._finish_at is not None else [])
        if tokens and len(all_of_them) == tokens:
            return all_of_them
        if tokens and len(with_end) == tokens:
            return with_end
        return [at for at, has_text in self._chunks if has_text]


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def error_text(told: Any) -> str:
    """The message of an error as OpenAI spells it, or whatever is there instead."""
    error = told.get("error", told) if isinstance(told, dict) else told
    if isinstance(error, dict):
        error = error.get("message", error)
    try:
        return str(error)
    except RecursionError:
        return "an error that is nested too deep to be shown"
