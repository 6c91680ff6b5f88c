"""Asks for the key everywhere, where vLLM guards /v1 and little else (decision 0011).

vLLM 0.26 to 0.33 answer /invocations, /generative_scoring, /scale_elastic_ep and /tokenize without
the key that they were given, and the first of them runs the model. Loaded by vLLM, from
``--middleware``; imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

VARIABLE = "VLLM_API_KEY"
"""vLLM reads the key here; on its command line every user of the machine could."""

OPEN = ("/health", "/metrics", "/ping", "/version")
"""Asked by probes and Prometheus, with GET; they tell nothing of anyone's text."""

_REFUSAL = json.dumps(
    {
        "error": {
            "message": "give the server's key: Authorization: Bearer KEY",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
).encode()
"""As OpenAI words it, so that clients of theirs show it."""

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class RequireKey:
    """ASGI middleware: 401 unless the header has the key of ``VLLM_API_KEY``."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app
        self._key = _digest(os.environ[VARIABLE].encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._may_pass(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})

    def _may_pass(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        method = scope.get("method")
        if method == "OPTIONS" or (path in OPEN and method in ("GET", "HEAD")):
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        # Digests have one length: the time to compare them tells nothing.
        return kind.lower() == b"bearer" and secrets.compare_digest(_digest(key), self._key)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
