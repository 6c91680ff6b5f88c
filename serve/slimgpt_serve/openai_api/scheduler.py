"""Which answers run together: continuous batching over the slots of one runner.

Between two decode steps waiting prompts are read, a chunk at a time, so that no stream stands
still for longer than a chunk takes. Rows of a batch are the first slots: an answer that ends leaves
its place to the last one. Everything here runs on the engine's thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slimgpt_serve.onnx_runtime.continuation import Continuation
from slimgpt_serve.onnx_runtime.generator import Engine as Runs
from slimgpt_serve.onnx_runtime.runner import BadLogits, Logits
from slimgpt_serve.openai_api.events import Ask, Event, Failed, Piece, ScoredToken
from slimgpt_serve.openai_api.metrics import Metrics, Timing
from slimgpt_serve.openai_api.scores import scored

if TYPE_CHECKING:
    from slimgpt_serve.onnx_runtime.tokens import Tokenizer

_LOG = logging.getLogger(__name__)

CHUNK_TOKENS = 128
"""Of a prompt, read at once: streams stand still meanwhile. 57 M parameters on one thread read
1,410 tokens a second in chunks of 128 (91 ms each), 1,449 in chunks of 512 (353 ms), 967 in chunks
of 32. Where chunks end depends on the prompt alone, so that no number, to its last bit, depends on
what else the server does."""


@dataclass(slots=True, eq=False)
class Job:
    """The answers of one request.

    Attributes:
        deliver: is given each event, on the engine's thread.
        cancelled: nobody waits for them any more.
    """

    deliver: Callable[[Event], None]
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class Answer:
    """One answer, from its arrival to its end. Times are of the monotonic clock, in seconds."""

    job: Job
    index: int
    ask: Ask
    arrived: float
    generated: Continuation
    admitted: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    read: int = 0
    unsent: list[ScoredToken] = field(default_factory=list)

    @property
    def cached(self) -> int:
        """Tokens in its slot."""
        return self.generated.cached if self.generated.tokens else self.read


class Scheduler:
    """Runs answers over the slots, one step at a time.

    Attributes:
        slot_s: seconds that an answer has a slot, as far as has been seen: an average of the last.
    """

    def __init__(self, runner: Runs, tokenizer: Tokenizer, metrics: Metrics) -> None:
        self._runner, self._tokenizer, self._metrics = runner, tokenizer, metrics
        self._rows: list[Answer] = []
        self._reading: Answer | None = None
        self.slot_s = 0.0

    def under_way(self) -> list[Answer]:
        """All answers that have a slot."""
        rows, reading = list(self._rows), self._reading
        return rows if reading is None else [*rows, reading]

    def step(self, take_waiting: Callable[[], Answer | None]) -> None:
        """One chunk of prompts, and one token for each answer under way.

        Args:
            take_waiting: hands over the next answer that waits, if any.
        """
        self._drop_cancelled()
        self._read_prompts(take_waiting)
        self._decode()

    # -- prompts --------------------------------------------------------------------------------

    def _read_prompts(self, take_waiting: Callable[[], Answer | None]) -> None:
        """Reads prompts up to a chunk of tokens: several short ones, or a part of a long one."""
        budget = CHUNK_TOKENS
        while budget > 0:
            if self._reading is None:
                self._reading = self._admit(take_waiting)
            if self._reading is None:
                return
            left = len(self._reading.ask.prompt) - self._reading.read
            if min(left, CHUNK_TOKENS) > budget:
                return
            budget -= self._read(self._reading)

    def _admit(self, take_waiting: Callable[[], Answer | None]) -> Answer | None:
        if len(self._rows) == self._runner.slots:
            return None
        answer = take_waiting()
        if answer:
            answer.admitted = time.monotonic()
        return answer

    def _read(self, answer: Answer) -> int:
        """Reads one chunk of a prompt; with the last one comes the first token."""
        chunk = answer.ask.prompt[answer.read : answer.read + CHUNK_TOKENS]
        slot = len(self._rows)
        try:
            logits = self._runner.prefill(slot, chunk, answer.read)
        except BadLogits as reason:
            self._reading = None
            self._fail(answer, str(reason))
            return len(chunk)
        answer.read += len(chunk)
        self._metrics.prompt_tokens(len(chunk))
        if answer.read == len(answer.ask.prompt):
            self._reading = None
            self._rows.append(answer)
            self._leave([slot] if self._take(answer, logits) else [])
        return len(chunk)

    # -- answers --------------------------------------------------------------------------------

    def _decode(self) -> None:
        """The next token of each answer under way."""
        rows = self._rows
        if not rows:
            return
        tokens = [answer.generated.last for answer in rows]
        lengths = [answer.generated.cached for answer in rows]
        bad: BadLogits | None = None
        try:
            logits = self._runner.decode(tokens, lengths)
        except BadLogits as reason:
            bad, logits = reason, reason.logits
        ended = []
        for row, answer in enumerate(rows):
            if bad and row in bad.rows:
                self._fail(answer, str(bad))
                ended.append(row)
            elif self._take(answer, logits[row]):
                ended.append(row)
        self._leave(ended)

    def _take(self, answer: Answer, logits: Logits) -> bool:
        """Picks a token and sends what text it makes final; whether it was the last."""
        try:
            text = self._pick(answer, logits)
        except Exception:  # noqa: BLE001 - no request's own numbers or bytes may end the others'
            _LOG.exception("an answer failed")
            self._fail(answer, "the server made a mistake; its log has it")
            return True
        generated = answer.generated
        self._clock(answer)
        self._metrics.generation_tokens(1)
        scores: tuple[ScoredToken, ...] = ()
        if answer.unsent and (text or generated.finish_reason):
            scores, answer.unsent = tuple(answer.unsent), []
        answer.job.deliver(Piece(answer.index, text, 1, scores, generated.finish_reason))
        if generated.finish_reason:
            self._metrics.finished(generated.finish_reason, _timing(answer))
        return generated.finish_reason is not None

    def _pick(self, answer: Answer, logits: Logits) -> str:
        """Picks a token; gives the text that is certain with it."""
        text = answer.generated.take(logits)
        if (count := answer.ask.alternatives) is not None:
            token = answer.generated.tokens[-1]
            answer.unsent.append(scored(logits, token, count, self._tokenizer))
        return text

    def _clock(self, answer: Answer) -> None:
        now = time.monotonic()
        if len(answer.generated.tokens) == 1:
            answer.first_token = now
            self._metrics.first_token(now - answer.arrived)
        else:
            self._metrics.next_token(now - answer.last_token)
        answer.last_token = now

    def _fail(self, answer: Answer, reason: str) -> None:
        """Ends one answer, and so its request; the others go on."""
        self._metrics.finished("error")
        answer.job.deliver(Failed(reason, 500))
        answer.job.cancelled = True  # the request's other answers have no one to go to

    # -- places ---------------------------------------------------------------------------------

    def _drop_cancelled(self) -> None:
        if self._reading and self._reading.job.cancelled:
            self._metrics.finished("abort")
            self._reading = None
        gone = [row for row, answer in enumerate(self._rows) if answer.job.cancelled]
        for _ in gone:
            self._metrics.finished("abort")
        self._leave(gone)

    def _leave(self, ended: Sequence[int]) -> None:
        """Frees these rows; the last ones move to their places, a prompt being read behind them."""
        for row in sorted(ended, reverse=True):
            answer, last = self._rows[row], len(self._rows) - 1
            seconds = time.monotonic() - answer.admitted
            self.slot_s = (self.slot_s + seconds) / 2 if self.slot_s else seconds
            if row != last:
                self._runner.move(last, row, self._rows[last].cached)
                self._rows[row] = self._rows[last]
            self._rows.pop()
            if self._reading and self._reading.read:
                self._runner.move(last + 1, last, self._reading.read)


def _timing(answer: Answer) -> Timing:
    return Timing(
        queued_s=answer.admitted - answer.arrived,
        first_token_s=answer.first_token - answer.arrived,
        total_s=answer.last_token - answer.arrived,
        tokens=len(answer.generated.tokens),
    )
