"""What happened to one request: times, tokens, and how it ended. No prompt and no output."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

Phase = Literal["warmup", "measured", "cooldown"]

FAILURES = (
    "connect",
    "timeout",
    "http_4xx",
    "http_5xx",
    "error_in_stream",
    "no_tokens",
    "truncated",
    "bad_response",
    "cancelled",
)
"""No connection, or one that ended before an answer; no end in time; refused; failed; an error
behind status 200; a stream without output; one that broke off; no OpenAI answer; still waiting or
under way when the run ended."""


@dataclass(slots=True)
class Record:
    """One request. Times are of ``time.perf_counter``, in seconds.

    Attributes:
        index: of its level.
        phase: only ``measured`` ones count.
        asked_prompt: tokens; None where the server alone can count them.
        asked_output: tokens.
        scheduled: when it was to be sent.
        released: when the client came to it; later than scheduled, the client was late.
        sent: when it was sent; None while it waits. A cap on concurrency comes in between.
        times: of each chunk with output.
        prompt_tokens: as the server counts them; None where it does not.
        output_tokens: likewise.
        texts: chunks that held text: no answer has fewer tokens.
        finish_reason: as the server says.
        ended: when the last output came, or it failed.
        failure: one of FAILURES; None where all went well.
        status: of HTTP.
        detail: what was said of the failure, cut short.
        out_of_files: the client had no file descriptor left.
    """

    index: int
    phase: Phase
    asked_prompt: int | None
    asked_output: int
    scheduled: float
    released: float = 0.0
    sent: float | None = None
    times: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    texts: int = 0
    finish_reason: str | None = None
    ended: float | None = None
    failure: str | None = None
    status: int | None = None
    detail: str = ""
    out_of_files: bool = False

    @property
    def ok(self) -> bool:
        return self.failure is None and bool(self.times)

    @property
    def queue_s(self) -> float:
        """What it waited before it was sent; for one that never was, until the run gave up."""
        until = self.sent if self.sent is not None else self.ended
        return (until or self.released) - self.scheduled

    @property
    def late_s(self) -> float:
        """How late the client came to it."""
        return self.released - self.scheduled

    @property
    def ttft_s(self) -> float:
        return self.times[0] - self.scheduled

    @property
    def service_ttft_s(self) -> float:
        """From the actual send."""
        return self.times[0] - (self.sent or 0.0)

    @property
    def e2e_s(self) -> float:
        return (self.ended or 0.0) - self.scheduled

    @property
    def service_e2e_s(self) -> float:
        """From the actual send."""
        return (self.ended or 0.0) - (self.sent or 0.0)

    @property
    def tokens(self) -> int:
        """Of the answer: as the server counts them, else its chunks."""
        return len(self.times) if self.output_tokens is None else self.output_tokens

    @property
    def tpot_s(self) -> float | None:
        """None for one token, and for several that came in one piece."""
        if self.tokens < 2 or len(self.times) < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.tokens - 1)

    @property
    def gaps_s(self) -> list[float]:
        """Between chunks."""
        return [after - before for before, after in pairwise(self.times)]

    def to_json(self, level: int, origin: float) -> dict[str, Any]:
        """A line of ``requests.jsonl``; times in seconds from the start of the measured part."""
        gaps = self.gaps_s
        told: dict[str, Any] = {
            "level": level,
            "index": self.index,
            "phase": self.phase,
            "scheduled_s": self.scheduled - origin,
            "released_s": self.released - origin,
            "sent_s": None if self.sent is None else self.sent - origin,
            "ended_s": None if self.ended is None else self.ended - origin,
            "ok": self.ok,
            "failure": self.failure,
            "status": self.status,
            "asked_prompt_tokens": self.asked_prompt,
            "asked_output_tokens": self.asked_output,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "finish_reason": self.finish_reason,
        }
        if self.ok:
            told |= {
                "ttft_s": self.ttft_s,
                "e2e_s": self.e2e_s,
                "tpot_s": self.tpot_s,
                "itl_max_s": max(gaps, default=None),
                "service_ttft_s": self.service_ttft_s,
                "service_e2e_s": self.service_e2e_s,
                "gaps_s": gaps,
            }
        return told
