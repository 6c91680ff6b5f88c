"""An OpenAI server whose truth is known: what the load bench has to recover.

It runs in a process of its own, so that its clock and the client's don't share an event loop:
``python mock_openai.py '{"ttft_s": 0.1, ...}'``. When each token goes out is computed from when the
request came in, and not from when the token before it went out: errors don't add up.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

WORD_TOKENS, EXTRA_TOKENS = 2, 3
"""What it counts for a word of a prompt, and for the whole of it."""
_SPIN_S = 0.0015
_DEATH = 9


@dataclass(frozen=True)
class Truth:
    """What the server does.

    Attributes:
        ttft_s: seconds from its turn to the first token.
        gap_s: between tokens.
        jitter_s: each token is late by up to this, at random.
        places: requests under way; others wait in line, first come first served. None: no line.
        failures: share of requests that fail in each way (see ``_FAILURES``), drawn by ``seed``.
        wrong_usage: ``prompt``, ``output`` or ``missing``.
        dies_after: requests, with the next one half answered.
        chunk_tokens: tokens that one chunk holds.
        opening: an empty chunk goes out at once.
        stops_after: tokens, whatever was asked.
        key: that clients must bring.
        digest: of what it says it serves.
        models: that it lists.
        context: tokens that it takes.
        seed: of failures and jitter.
    """

    ttft_s: float = 0.02
    gap_s: float = 0.005
    jitter_s: float = 0.0
    places: int | None = None
    failures: Mapping[str, float] = field(default_factory=dict)
    wrong_usage: str | None = None
    dies_after: int | None = None
    chunk_tokens: int = 1
    opening: bool = False
    stops_after: int | None = None
    key: str | None = None
    digest: str | None = None
    models: tuple[str, ...] = ("mock",)
    context: int | None = None
    seed: int = 0

    def service_s(self, tokens: int) -> float:
        """From its turn to the last token."""
        return self.ttft_s + (tokens - 1) * self.gap_s


@contextmanager
def serving(truth: Truth) -> Iterator[str]:
    """The address of such a server, while it runs."""
    line = [sys.executable, str(Path(__file__)), json.dumps(asdict(truth))]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


class Server:
    """Answers by the truth."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._free = [0.0] * (truth.places or 0)
        self._came = itertools.count()
        self._random = random.Random(truth.seed)
        self._treated: list[str | None] = []
        self._late: list[float] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self.models),
                web.get("/version", self.version),
                web.get("/metrics", self.metrics),
                web.get("/truth", self.told),
                web.get("/lateness", self.lateness),
                web.post("/v1/completions", self.complete),
                web.post("/v1/chat/completions", self.complete),
            ]
        )
        return app

    async def models(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return _error(401, "give the key")
        rows = [
            {"id": name, "owned_by": "mock", "max_model_len": self._truth.context}
            for name in self._truth.models
        ]
        return web.json_response({"object": "list", "data": rows})

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "1.0"})

    async def metrics(self, _: web.Request) -> web.Response:
        digest = self._truth.digest
        line = f'slimgpt_build_info{{version="1",model="m",digest="{digest}"}} 1.0\n'
        return web.Response(text=line if digest else "")

    async def told(self, _: web.Request) -> web.Response:
        """How it treated each streamed request, in the order in which they came."""
        return web.json_response(self._treated)

    async def lateness(self, _: web.Request) -> web.Response:
        """By how many seconds tokens went out late: the 95th percentile."""
        late = sorted(self._late)
        return web.json_response(late[int(0.95 * len(late))] if late else 0.0)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        came = time.perf_counter()
        truth = self._truth
        if not self._allowed(request):
            return _error(401, "give the key")
        body = await request.json()
        prompt = _prompt_tokens(body)
        tokens = min(body["max_tokens"], truth.stops_after or body["max_tokens"])
        if truth.context and prompt + tokens > truth.context:
            return _error(400, f"the prompt has {prompt} tokens, beyond the context")
        if not body.get("stream"):
            return web.json_response({"choices": [{"text": "x"}], "usage": _usage(prompt, tokens)})
        number = next(self._came)
        if truth.dies_after is not None and number > truth.dies_after:
            os._exit(_DEATH)
        failure = self._draw()
        self._treated.append(failure)
        turn = came
        if truth.places and failure in (None, "truncated", "error_in_stream"):
            turn = max(came, heapq.heappop(self._free))
            heapq.heappush(self._free, turn + truth.service_s(tokens))
        if failure in _STATUS:
            return _error(_STATUS[failure], f"made to fail: {failure}")
        if failure == "error_instead":
            return web.json_response({"error": {"message": "made to fail with status 200"}})
        if failure == "page":
            return web.Response(text="<html>", content_type="text/html")
        with suppress(ConnectionResetError):  # the client cut it off
            return await self._stream(request, body, turn, tokens, prompt, failure)
        return web.Response()

    def _draw(self) -> str | None:
        drawn = self._random.random()
        for kind, share in self._truth.failures.items():
            if drawn < share:
                return kind
            drawn -= share
        return None

    def _allowed(self, request: web.Request) -> bool:
        key = self._truth.key
        return key is None or request.headers.get("Authorization") == f"Bearer {key}"

    async def _stream(
        self,
        request: web.Request,
        body: dict[str, Any],
        turn: float,
        tokens: int,
        prompt: int,
        failure: str | None,
    ) -> web.StreamResponse:
        truth = self._truth
        chat = "messages" in body
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if chat:
            await _send(response, {"choices": [{"index": 0, "delta": {"role": "assistant"}}]})
        elif truth.opening:
            await _send(response, _chunk("", None, chat))
        if failure == "hang":
            await asyncio.sleep(3600)
        if failure == "no_tokens":
            await response.write(b"data: [DONE]\n\n")
            return response
        for first in range(0, tokens, truth.chunk_tokens):
            here = min(truth.chunk_tokens, tokens - first)
            late = self._random.uniform(0, truth.jitter_s) if truth.jitter_s else 0.0
            due = turn + truth.service_s(first + here) + late
            await _until(due)
            self._late.append(time.perf_counter() - due)
            if first and failure == "truncated":
                assert request.transport
                request.transport.abort()
                return response
            if first and failure == "error_in_stream":
                await _send(response, {"error": {"message": "made to fail half-way"}})
                await response.write(b"data: [DONE]\n\n")
                return response
            last = first + here == tokens
            stopped = tokens < body["max_tokens"]
            reason = ("stop" if stopped else "length") if last else None
            await _send(response, _chunk("a" * here, reason, chat))
        if truth.wrong_usage != "missing":
            counts = _usage(
                prompt + 5 * (truth.wrong_usage == "prompt"),
                tokens // (2 if truth.wrong_usage == "output" else 1),
            )
            await _send(response, {"choices": [], "usage": counts})
        await response.write(b"data: [DONE]\n\n")
        return response


_STATUS = {"http_500": 500, "http_429": 429, "http_503": 503, "http_400": 400}


def _prompt_tokens(body: Mapping[str, Any]) -> int:
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        return len(prompt)
    text = prompt if prompt is not None else body["messages"][0]["content"]
    return len(text.split()) * WORD_TOKENS + EXTRA_TOKENS


def _usage(prompt: int, tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
    }


def _chunk(text: str, reason: str | None, chat: bool) -> dict[str, Any]:
    said = {"delta": {"content": text}} if chat else {"text": text}
    return {"choices": [{"index": 0, **said, "finish_reason": reason}]}


async def _send(response: web.StreamResponse, document: Mapping[str, Any]) -> None:
    await response.write(f"data: {json.dumps(document)}\n\n".encode())


async def _until(at: float) -> None:
    """Sleeps most of it, since a sleep ends a millisecond late, and looks for the rest."""
    left = at - time.perf_counter()
    if left > _SPIN_S:
        await asyncio.sleep(left - _SPIN_S)
    while time.perf_counter() < at:
        await asyncio.sleep(0)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)


async def _main(truth: Truth) -> None:
    runner = web.AppRunner(Server(truth).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Truth(**json.loads(sys.argv[1]))))
