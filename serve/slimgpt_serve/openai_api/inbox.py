"""Where events of the engine's thread wait for the coroutine that answers the request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from slimgpt_serve.openai_api.events import Event, Failed, Piece
from slimgpt_serve.openai_api.refusal import Refusal

if TYPE_CHECKING:
    from fastapi import Request


T = TypeVar("T")


class Gone(Exception):
    """The client went away."""


class Inbox:
    """Events of one request's answers, in order."""

    def __init__(self, answers: int, *, streams: bool) -> None:
        """Makes it in the event loop that will read it.

        Args:
            answers: how many there will be.
            streams: each piece is wanted as it comes, and not when an answer has ended.
        """
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._came = asyncio.Event()
        self._open = set(range(answers))
        self._streams = streams

    def deliver(self, event: Event) -> None:
        """Takes an event from any thread."""
        self._events.append(event)
        if self._streams or isinstance(event, Failed) or event.finish_reason:
            with suppress(RuntimeError):  # the loop was closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._came.set)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces until every answer has ended; what a slow reader left waiting comes as one.

        Raises:
            Refusal: the engine could not go on.
        """
        while self._open:
            while not self._events:
                self._came.clear()
                await self._came.wait()
            event = self._events.popleft()
            if isinstance(event, Failed):
                raise Refusal(event.status, event.message)
            event = self._with_what_follows(event)
            if event.finish_reason:
                self._open.discard(event.index)
            yield event

    def _with_what_follows(self, piece: Piece) -> Piece:
        """The piece, and those of the same answer that are right behind it."""
        pieces = [piece]
        while self._events:
            later = self._events[0]
            if isinstance(later, Failed) or later.index != piece.index:
                break
            pieces.append(later)
            self._events.popleft()
        return Piece.joined(pieces)


async def unless_gone(http: Request, work: asyncio.Task[T]) -> T:
    """The result of some work, which ends when the client goes away.

    Raises:
        Gone: it did.
    """
    leaving = asyncio.create_task(_left(http))
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Gone
        return work.result()
    finally:
        leaving.cancel()
        work.cancel()


async def _left(http: Request) -> None:
    """Waits for the client to go away; its request has been read to the end."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
