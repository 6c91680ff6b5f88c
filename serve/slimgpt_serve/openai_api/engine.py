"""The thread that generates, and the queue before it."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import TYPE_CHECKING

from slimgpt_serve.onnx_runtime.continuation import Continuation
from slimgpt_serve.onnx_runtime.generator import Engine as Runs
from slimgpt_serve.openai_api.events import Ask, Event, Failed
from slimgpt_serve.openai_api.metrics import Load, Metrics
from slimgpt_serve.openai_api.refusal import Refusal
from slimgpt_serve.openai_api.scheduler import Answer, Job, Scheduler

if TYPE_CHECKING:
    from slimgpt_serve.onnx_runtime.tokens import Tokenizer

_LOG = logging.getLogger(__name__)
_LONGEST_RETRY_S = 60
_STOPPING = "the server is stopping"


class Engine:
    """Answers requests on a thread of its own, which alone touches the runner.

    Attributes:
        capacity: most tokens of a prompt and its answer together.
    """

    def __init__(
        self, runner: Runs, tokenizer: Tokenizer, metrics: Metrics, *, max_waiting: int
    ) -> None:
        """Starts nothing yet.

        Args:
            runner: with a slot for each answer that runs at the same time.
            tokenizer: of the model.
            metrics: is told what happens.
            max_waiting: most answers that wait for a slot.
        """
        self.capacity, self._slots, self._max_waiting = runner.capacity, runner.slots, max_waiting
        self._tokenizer, self._metrics = tokenizer, metrics
        self._scheduler = Scheduler(runner, tokenizer, metrics)
        self._waiting: deque[Answer] = deque()
        self._changed = Condition()
        self._ended: str | None = None
        self._closing = False
        self._thread = Thread(target=self._run, name="slimgpt-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the step that it is in; what is under way fails."""
        self._end(_STOPPING)
        if self._thread.is_alive():
            self._thread.join()

    def refuse_new(self) -> None:
        """Lets what was taken be answered, and takes nothing more."""
        self._closing = True

    @property
    def healthy(self) -> bool:
        """Whether requests can be answered."""
        return self._ended is None and not self._closing and self._thread.is_alive()

    def load(self) -> Load:
        """What there is to do, at this moment."""
        running = self._scheduler.under_way()
        return Load(
            running=len(running),
            waiting=len(self._waiting),
            cached_tokens=sum(answer.cached for answer in running),
            capacity_tokens=self.capacity * self._slots,
        )

    def refuse_too_many(self, answers: int) -> None:
        """Refuses so many answers that they could never wait together.

        Raises:
            Refusal: 400.
        """
        most = self._slots + self._max_waiting
        if answers > most:
            raise Refusal(
                400,
                f"the request asks for {answers} answers, and this server takes {most} at once "
                f"({self._slots} running, {self._max_waiting} waiting): send fewer prompts, or a "
                "smaller n",
                param="n",
            )

    def submit(self, asks: Sequence[Ask], deliver: Callable[[Event], None]) -> Job:
        """Queues the answers of one request.

        Args:
            asks: what is to be generated.
            deliver: is given each event, on the engine's thread.

        Raises:
            Refusal: 400 for more than could ever wait; 429 while too many wait; 503 after the end.
        """
        self.refuse_too_many(len(asks))
        job, now = Job(deliver), time.monotonic()
        answers = [Answer(job, i, ask, now, self._begun(ask)) for i, ask in enumerate(asks)]
        with self._changed:
            if self._ended or self._closing:
                raise Refusal(503, self._ended or _STOPPING)
            self._refuse_if_busy(len(asks))
            self._waiting.extend(answers)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Nobody waits for these answers any more; their slots are free with the next step."""
        job.cancelled = True
        with self._changed:
            kept = [answer for answer in self._waiting if answer.job is not job]
            for _ in range(len(self._waiting) - len(kept)):
                self._metrics.finished("abort")
            self._waiting = deque(kept)
            self._changed.notify()

    def _begun(self, ask: Ask) -> Continuation:
        return Continuation(
            ask.prompt,
            ask.sampling,
            max_new_tokens=ask.max_tokens,
            decoder=self._tokenizer,
            eos=ask.end_ids,
            stops=ask.stop_strings,
        )

    def _refuse_if_busy(self, more: int) -> None:
        waiting = len(self._waiting)
        free = self._slots - len(self._scheduler.under_way())
        if waiting + more <= self._max_waiting + free:
            return
        seconds = self._scheduler.slot_s * (waiting + 1) / self._slots
        raise Refusal(
            429,
            f"{waiting} answers wait already, and this server lets {self._max_waiting} wait: try "
            "again later, or start the server with a larger --max-waiting",
            code="rate_limit_exceeded",
            retry_after_s=min(max(1, math.ceil(seconds)), _LONGEST_RETRY_S),
        )

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._has_work():
                self._scheduler.step(self._take_waiting)
        except Exception:  # noqa: BLE001 - whatever it is, requests must not wait for ever
            _LOG.exception("the engine stopped")
            self._end("the engine stopped after an error, which the server's log has: restart it")
        for answer in [*self._scheduler.under_way(), *self._waiting]:
            answer.job.deliver(Failed(self._ended or _STOPPING, 503))
            self._metrics.finished("error")

    def _has_work(self) -> bool:
        """Waits for something to do; False when there will be nothing more."""
        with self._changed:
            while not (self._ended or self._waiting or self._scheduler.under_way()):
                self._changed.wait()
            return self._ended is None

    def _take_waiting(self) -> Answer | None:
        with self._changed:
            while self._waiting:
                answer = self._waiting.popleft()
                if not answer.job.cancelled:
                    return answer
                self._metrics.finished("abort")
            return None

    def _end(self, reason: str) -> None:
        with self._changed:
            self._ended = self._ended or reason
            self._changed.notify()
