"""Tokens as they were asked for, as the server counts them, and whether it counts right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt_bench.load.record import Record


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Of the answered requests of a level.

    Attributes:
        prompt: tokens of prompts, by the server's usage, else as they were sent.
        output: of answers, by the server's usage, else chunks.
        asked_output: as they were asked for.
        chunks: that held output.
        usage_missing: answers without a usage.
        usage_mismatches: answers whose usage can't be right.
        early_stops: answers that ended before the asked length although they were not to.
        unstreamed: answers of several tokens that came in one piece.
        single: answers of one token, which have no time per output token.
        answers: all of them.
    """

    prompt: int
    output: int
    asked_output: int
    chunks: int
    usage_missing: int
    usage_mismatches: int
    early_stops: int
    unstreamed: int
    single: int
    answers: int

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "answers"}

    def problems(self) -> list[str]:
        """What makes the level's numbers wrong, a sentence each."""
        of = f"of {self.answers} answers"
        found = []
        if self.usage_mismatches:
            found.append(
                f"the server reports wrong token counts: the usage of {self.usage_mismatches} {of} "
                "is not what was sent or streamed"
            )
        if self.early_stops:
            found.append(
                f"{self.early_stops} {of} ended before the asked length, so the server does not "
                "take ignore_eos: give --respect-eos, and lengths are the model's own"
            )
        if self.usage_missing:
            found.append(
                f"{self.usage_missing} {of} came without a usage, so tokens are counted as chunks "
                "and their number is not sure"
            )
        if self.unstreamed and self.unstreamed == self.answers - self.single:
            found.append("every answer came in one piece: the server does not stream")
        return found


def count(records: Sequence[Record], *, ignore_eos: bool) -> TokenCounts:
    """Counts the answers that were not failures."""
    ok = [x for x in records if x.ok]
    return TokenCounts(
        prompt=sum(x.prompt_tokens or x.asked_prompt or 0 for x in ok),
        output=sum(x.tokens for x in ok),
        asked_output=sum(x.asked_output for x in ok),
        chunks=sum(len(x.times) for x in ok),
        usage_missing=sum(x.output_tokens is None or x.prompt_tokens is None for x in ok),
        usage_mismatches=sum(wrong_usage(x) for x in ok),
        early_stops=sum(ignore_eos and _stopped_early(x) for x in ok),
        unstreamed=sum(x.tokens > 1 and len(x.times) == 1 for x in ok),
        single=sum(x.tokens == 1 for x in ok),
        answers=len(ok),
    )


def wrong_usage(record: Record) -> bool:
    """Whether a server's counts contradict what is known.

    A chunk of text has a token at least, but the last may hold what was kept back of the one before
    it. No answer is longer than asked, and one that ended for its length is not shorter.
    """
    prompt, output = record.prompt_tokens, record.output_tokens
    if None not in (prompt, record.asked_prompt) and prompt != record.asked_prompt:
        return True
    if output is None:
        return False
    ended_for_length = record.finish_reason == "length"
    return (
        output > record.asked_output
        or output < record.texts - 1
        or (ended_for_length and output != record.asked_output)
    )


def _stopped_early(record: Record) -> bool:
    return record.finish_reason != "length" and record.tokens < record.asked_output
