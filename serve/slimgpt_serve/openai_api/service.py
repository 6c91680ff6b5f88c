"""One request to the model, from its checked body to its answer or its stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from slimgpt_serve.openai_api.answers import ChatForm, CompletionForm, Form, Usage
from slimgpt_serve.openai_api.asks import Asks
from slimgpt_serve.openai_api.engine import Engine
from slimgpt_serve.openai_api.events import Ask, Piece
from slimgpt_serve.openai_api.inbox import Gone, Inbox, unless_gone
from slimgpt_serve.openai_api.metrics import Metrics
from slimgpt_serve.openai_api.protocol import ChatRequest, CompletionRequest, GenerationRequest
from slimgpt_serve.openai_api.refusal import Refusal
from slimgpt_serve.openai_api.scheduler import Job

_CLIENT_WENT_AWAY = 499
"""What proxies log; nobody reads this answer."""
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Service:
    """Answers requests to the model."""

    def __init__(self, engine: Engine, asks: Asks, metrics: Metrics, name: str) -> None:
        """Holds what all requests need.

        Args:
            engine: that generates.
            asks: makes what it is asked for.
            metrics: is told how requests end.
            name: of the model, as clients use it.
        """
        self.engine, self.metrics, self.name = engine, metrics, name
        self._asks = asks
        # One thread: prompts are numbered in the order they came in, and others are not held up.
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="slimgpt-prompts")

    async def completions(self, http: Request, request: CompletionRequest) -> Response:
        """Answers /v1/completions."""
        self.require_model(request.model)
        asks = await self._prepare(self._asks.completions, request)
        echoes = [self._asks.text_of(ask) for ask in asks] if request.echo else ()
        return await self._answer(http, request, asks, CompletionForm(self.name, echoes))

    async def chat(self, http: Request, request: ChatRequest) -> Response:
        """Answers /v1/chat/completions."""
        self.require_model(request.model)
        asks = await self._prepare(self._asks.chat, request)
        return await self._answer(http, request, asks, ChatForm(self.name))

    async def _prepare(self, make: Callable[[Any], list[Ask]], request: Any) -> list[Ask]:
        self.engine.refuse_too_many(request.answers)  # a small body may ask for millions
        return await asyncio.get_running_loop().run_in_executor(self._preparing, make, request)

    def require_model(self, name: str | None) -> None:
        """Refuses a name that is not this model's; none at all is fine.

        Raises:
            Refusal: 404.
        """
        if name is not None and name != self.name:
            raise Refusal(
                404,
                f"the model {name} does not exist: this server has {self.name}",
                param="model",
                code="model_not_found",
            )

    async def _answer(
        self, http: Request, request: GenerationRequest, asks: Sequence[Ask], form: Form
    ) -> Response:
        inbox = Inbox(len(asks), streams=request.stream)
        job = self.engine.submit(asks, inbox.deliver)
        prompt_tokens = sum(len(ask.prompt) for ask in asks[:: request.n])
        pieces = inbox.pieces()
        try:
            if not request.stream:
                whole = asyncio.ensure_future(_gathered(pieces, len(asks)))
                answers, tokens = await unless_gone(http, whole)
                self.metrics.request("ok")
                return JSONResponse(form.whole(answers, Usage(prompt_tokens, tokens)))
            # With the first token in hand, what fails before it is an answer with a status.
            first = await unless_gone(http, asyncio.ensure_future(anext(pieces)))
        except Gone:
            self.metrics.request("aborted")
            self.engine.cancel(job)
            return Response(status_code=_CLIENT_WENT_AWAY)
        except BaseException:  # a refusal, or the end of the server
            self.engine.cancel(job)
            raise
        stream = _Stream(_begun_again(first, pieces), form, self, job)
        return stream.response(len(asks), prompt_tokens if request.with_usage else None)


class _Stream:
    """The stream of one request: its lines, and how it ends."""

    def __init__(
        self, pieces: AsyncIterator[Piece], form: Form, service: Service, job: Job
    ) -> None:
        self._pieces, self._form = pieces, form
        self._service, self._job = service, job
        self._outcome = "aborted"

    def response(self, answers: int, prompt_tokens: int | None) -> Response:
        """What sends it; ``prompt_tokens`` for a client that wants the usage at its end."""
        return _Sending(self._lines(answers, prompt_tokens), self._end)

    async def _lines(self, answers: int, prompt_tokens: int | None) -> AsyncIterator[bytes]:
        form, tokens = self._form, 0
        for document in form.opening(answers):
            yield _line(document)
        try:
            async for piece in self._pieces:
                tokens += piece.tokens
                # Without text too, as vLLM does: a client sees when the first token came.
                yield _line(form.part(piece))
        except Refusal as reason:  # the status has gone out already
            self._outcome = "failed"
            yield _line(reason.body())
        else:
            self._outcome = "ok"
            if prompt_tokens is not None:
                yield _line(form.last(Usage(prompt_tokens, tokens)))
        yield b"data: [DONE]\n\n"

    def _end(self) -> None:
        self._service.engine.cancel(self._job)
        self._service.metrics.request(self._outcome)


class _Sending(StreamingResponse):
    """Server-sent events; says when it has ended, however it did."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        super().__init__(lines, headers=_UNBUFFERED)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _begun_again(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece


async def _gathered(pieces: AsyncIterator[Piece], answers: int) -> tuple[list[Piece], int]:
    """All answers, each as one piece, and how many tokens they have."""
    found: list[list[Piece]] = [[] for _ in range(answers)]
    async for piece in pieces:
        found[piece.index].append(piece)
    whole = [Piece.joined(each) for each in found]
    return whole, sum(piece.tokens for piece in whole)


def _line(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"data: {text}\n\n".encode()
