"""Server-sent events out of bytes, as they come in (HTML standard, section 9.2.6)."""

from __future__ import annotations

from collections.abc import Iterator

LARGEST_EVENT = 8 * 2**20


class TooLarge(Exception):
    """An event that no answer of a model has."""


class EventReader:
    """Gives out the data of each event once its last line is there."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, part: bytes) -> Iterator[str]:
        """Events that this part completes.

        Raises:
            TooLarge: a line or an event is beyond what is read.
        """
        *lines, self._rest = (self._rest + part).split(b"\n")
        if len(self._rest) > LARGEST_EVENT:
            raise TooLarge
        for line in lines:
            yield from self._line(line.rstrip(b"\r"))

    def finish(self) -> Iterator[str]:
        """What a stream ended with that has no empty line behind it."""
        yield from self._line(self._rest)
        self._rest = b""
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[str]:
        if not line:
            if self._data:
                yield "\n".join(self._data)
                self._data = []
            return
        name, _, value = line.partition(b":")
        if name == b"data":  # a comment has no name, and other fields mean nothing here
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
            if sum(map(len, self._data)) > LARGEST_EVENT:
                raise TooLarge
