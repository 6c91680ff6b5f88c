"""Sends requests and takes in streams. Alone imports aiohttp.

One connection a request under way, without limit: a pool that runs empty would hold requests back
and hide it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

try:
    import aiohttp
except ImportError:
    from slimgpt.errors import missing_extra

    raise missing_extra("slimgpt bench load", "bench") from None

from slimgpt_bench.load.answer import Answer, error_text
from slimgpt_bench.load.record import Record
from slimgpt_bench.load.sse import EventReader, TooLarge

_STREAM = "text/event-stream"
_ERROR_BYTES, _WHOLE_BYTES = 65_536, 2**24
_LONGEST_DETAIL = 200
_ANSWER_BYTES = 2**28
_IDLE_S = 2.0
"""Below what servers close idle connections after (uvicorn: 5 s): a request on one that is just
being closed would fail for nothing."""
_OK, _REDIRECT, _REFUSED, _FAILED = 200, 300, 400, 500
_GET_S = 20.0


class Client:
    """Talks to one server.

    Args:
        url: of the server, without a path.
        api_key: that it asks for.
        timeout_s: of one request.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        self._url, self._key, self._timeout_s = url, api_key, timeout_s
        self._headers = {"Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        reason: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of an answer.

        Raises:
            OSError: there is no server, or it does not answer.
        """
        try:
            async with asyncio.timeout(_GET_S):
                async with self._session.get(self._url + path, allow_redirects=False) as response:
                    return response.status, await _text(response, _WHOLE_BYTES)
        except (TimeoutError, aiohttp.ClientError) as reason:
            raise OSError(str(reason) or type(reason).__name__) from None

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, str]:
        """Likewise, of a request that does not stream.

        Raises:
            OSError: there is no server, or it does not answer.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._session.post(
                    self._url + path, json=body, allow_redirects=False
                ) as response:
                    return response.status, await _text(response, _WHOLE_BYTES)
        except (TimeoutError, aiohttp.ClientError) as reason:
            raise OSError(str(reason) or type(reason).__name__) from None

    async def stream(self, path: str, body: Mapping[str, Any], record: Record) -> None:
        """Sends a request and writes down all that comes of it; failures too.

        Args:
            path: of the endpoint.
            body: of the request, which asks for a stream.
            record: is filled in.
        """
        data = json.dumps(body).encode()
        answer = Answer()
        record.sent = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(path, data, record, answer)
        except TimeoutError:
            answer.settle(record)
            _fail(record, "timeout", f"no end after {self._timeout_s:g} s")
        except asyncio.CancelledError:
            answer.settle(record)
            _fail(record, "cancelled", "under way when the run ended")
            raise
        except (aiohttp.ClientError, OSError, ValueError) as reason:
            answer.settle(record)
            _fail(record, _broken(record, reason), str(reason) or type(reason).__name__)
            record.out_of_files = _errno(reason) in (errno.EMFILE, errno.ENFILE)
        finally:
            record.detail = self._harmless(record.detail)

    def _harmless(self, detail: str) -> str:
        """Words of a server for a line of ours: short, printable, and without the key."""
        if self._key:
            detail = detail.replace(self._key, "***")
        line = " ".join(detail.split())[:_LONGEST_DETAIL]
        return "".join(x if x.isprintable() else "?" for x in line)

    async def _exchange(self, path: str, data: bytes, record: Record, answer: Answer) -> None:
        async with self._session.post(
            self._url + path,
            data=data,
            headers={"Content-Type": "application/json"},
            allow_redirects=False,
        ) as response:
            record.status = response.status
            if response.status != _OK or response.content_type != _STREAM:
                _fail(record, *_no_stream(response.status, await _text(response, _ERROR_BYTES)))
                return
            try:
                await _read(response.content, answer)
            except TooLarge:
                _fail(record, "bad_response", "the stream is too large for an answer")
                return
        answer.settle(record)
        if record.failure:
            _fail(record, record.failure, record.detail)


async def _text(response: aiohttp.ClientResponse, most: int) -> str:
    """All of a body, up to so many bytes: one read gives what has come so far."""
    parts, left = [], most
    while left > 0 and (part := await response.content.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts).decode("utf-8", "replace")


async def _read(content: aiohttp.StreamReader, answer: Answer) -> None:
    events, taken = EventReader(), 0
    async for part in content.iter_any():
        at = time.perf_counter()
        taken += len(part)
        if taken > _ANSWER_BYTES:
            raise TooLarge
        for data in events.feed(part):
            answer.feed(at, data)
    for data in events.finish():
        answer.feed(time.perf_counter(), data)


def _no_stream(status: int, body: str) -> tuple[str, str]:
    """Class and words of an answer that is no stream."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = body
    said = error_text(told)
    if status >= _FAILED:
        return "http_5xx", f"{status}: {said}"
    if status >= _REFUSED:
        return "http_4xx", f"{status}: {said}"
    if status >= _REDIRECT:
        return "bad_response", f"{status}: a redirection, which is not followed"
    if isinstance(told, dict) and told.get("error"):
        return "error_in_stream", said
    return "bad_response", f"{status}: no stream of events: {said}"


def _fail(record: Record, kind: str, detail: str) -> None:
    record.failure, record.detail = kind, detail
    record.ended = time.perf_counter()


def _broken(record: Record, reason: BaseException) -> str:
    """Class of an exchange that broke: before an answer, within its head, or within its stream."""
    if record.status is None:
        # A head that is no HTTP, or a compression that was not asked for: somebody is there.
        nonsense = isinstance(reason, aiohttp.ClientResponseError)
        return "bad_response" if nonsense else "connect"
    return "truncated" if record.times else "no_tokens"


def _errno(reason: BaseException) -> int | None:
    found = getattr(reason, "os_error", reason)
    return getattr(found, "errno", None)
