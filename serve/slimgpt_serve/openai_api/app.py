"""The routes of the server, and how it answers what it can't meet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import slimgpt
from slimgpt_serve.openai_api.metrics import CONTENT_TYPE
from slimgpt_serve.openai_api.protocol import ChatRequest, CompletionRequest
from slimgpt_serve.openai_api.refusal import OWN, Refusal
from slimgpt_serve.openai_api.service import Service

_UNREADABLE, _BUSY, _OURS = 400, 429, 500
_GENERATES = ("/v1/completions", "/v1/chat/completions")
_NO_TEXT = "the body can't be read: send JSON in UTF-8, without numbers or nesting of great length"
_NO_OBJECT = "the body is no JSON object: send one, with the header Content-Type: application/json"
_BODY_BYTES_PER_TOKEN = 64
_LEAST_BODY_BYTES = 2**20


def make_app(service: Service) -> FastAPI:
    """The server's application, without what guards it."""
    app = FastAPI(title="SlimGPT", version=slimgpt.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(LimitBody, most_bytes=body_bytes(service.engine.capacity))
    _add_errors(app, service)
    model = {
        "id": service.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "slimgpt",
        "root": service.name,
        "parent": None,
        "max_model_len": service.engine.capacity,
    }

    @app.get("/health")
    async def health() -> Response:
        if not service.engine.healthy:
            raise Refusal(503, "the model can't answer")
        return Response()

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": slimgpt.__version__}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        service.require_model(name)
        return model

    @app.post("/v1/completions")
    async def completions(http: Request, request: CompletionRequest) -> Response:
        return await service.completions(http, request)

    @app.post("/v1/chat/completions")
    async def chat(http: Request, request: ChatRequest) -> Response:
        return await service.chat(http, request)

    return app


def body_bytes(capacity: int) -> int:
    """Largest body of a request: generous for a prompt of that many tokens, spelt in any way."""
    return max(_LEAST_BODY_BYTES, _BODY_BYTES_PER_TOKEN * capacity)


# -- errors -------------------------------------------------------------------------------------


def _add_errors(app: FastAPI, service: Service) -> None:
    def answer(http: Request, refusal: Refusal) -> JSONResponse:
        if http.url.path in _GENERATES:
            service.metrics.request(_outcome(refusal.status))
        return JSONResponse(refusal.body(), refusal.status, refusal.headers())

    @app.exception_handler(Refusal)
    async def refused(http: Request, reason: Refusal) -> JSONResponse:
        return answer(http, reason)

    @app.exception_handler(RequestValidationError)
    async def invalid(http: Request, reason: RequestValidationError) -> JSONResponse:
        return answer(http, refusal_of(reason.errors()))

    @app.exception_handler(HTTPException)
    async def http_error(http: Request, reason: HTTPException) -> JSONResponse:
        unreadable = reason.status_code == _UNREADABLE  # FastAPI's word for a body's bytes
        said = _NO_TEXT if unreadable else f"{http.url.path}: {reason.detail}"
        refusal = Refusal(reason.status_code, said)
        found = answer(http, refusal)
        found.headers.update(reason.headers or {})
        return found

    @app.exception_handler(Exception)
    async def unexpected(http: Request, _: Exception) -> JSONResponse:
        return answer(http, Refusal(_OURS, "the server made a mistake; its log has it"))


def _outcome(status: int) -> str:
    if status == _BUSY:
        return "busy"
    return "failed" if status >= _OURS else "refused"


def refusal_of(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """The answer to a body that is not what it should be; the first fault is told."""
    first = errors[0]
    where = [str(part) for part in first["loc"][1:]]
    context = first.get("ctx") or {}
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is no JSON: {context.get('error', first['msg'])}")
    if first["type"] == OWN:
        return Refusal(400, first["msg"], param=context["param"])
    if not where:
        return Refusal(400, _NO_OBJECT)
    place = ".".join(where)
    return Refusal(400, f"{place}: {first['msg']}", param=where[0])


# -- the size of a body -------------------------------------------------------------------------


class LimitBody:
    """ASGI middleware: 413 for a body that no request needs, before it is kept."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise HTTPException(413, f"the body is larger than {self._most} bytes")
            return message

        await self._app(scope, limited, send)
