"""Where the server listens: whether it can, and how it is reached."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from slimgpt.errors import EnvironmentProblem, UsageError

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104, RUF100


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port that are free.

    Attributes:
        host: as the user gave it.
        port: never 0.
        tls: the server speaks HTTPS.
    """

    host: str
    port: int
    tls: bool = False

    @property
    def reached_at(self) -> str:
        """The host that a client on this machine connects to."""
        return _ANYWHERE.get(self.host.strip("[]"), self.host.strip("[]"))

    @property
    def url(self) -> str:
        """Base of the OpenAI-compatible API."""
        host = f"[{self.reached_at}]" if ":" in self.reached_at else self.reached_at
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/v1"


def claim(host: str, port: int, *, tls: bool = False) -> Address:
    """Tries the address out, and gives it up again for the server; port 0 becomes a free one.

    Raises:
        EnvironmentProblem: the port is in use, or only root may take it.
        UsageError: the host is no address of this machine.
    """
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise UsageError(
            f"--host {host} can't be resolved: give an address of this machine, or 0.0.0.0 for all"
        ) from None
    family, kind, protocol, _, where = found[0]
    with socket.socket(family, kind, protocol) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(where)
            attempt.listen(1)
        except OSError as reason:
            raise _refused(host, port, reason) from None
        return Address(host, attempt.getsockname()[1], tls)


@contextmanager
def held(address: Address) -> Iterator[None]:
    """Keeps the address from other servers of ours, while this one loads and serves.

    vLLM listens only when the model is loaded. A second server would load too, take the first one's
    answer for its own, and die. What is held is a name in Linux's abstract namespace, which is as
    wide as that of the ports and ends with this process.

    Raises:
        EnvironmentProblem: another has it.
    """
    with socket.socket(socket.AF_UNIX) as name:
        if sys.platform == "linux":
            try:
                name.bind(f"\0slimgpt-serve {address.host} {address.port}")
            except OSError as reason:
                raise _refused(address.host, address.port, reason) from None
        yield


def _refused(host: str, port: int, reason: OSError) -> EnvironmentProblem | UsageError:
    if reason.errno == errno.EADDRINUSE:
        return EnvironmentProblem(
            f"port {port} of {host} is in use: give another --port, or 0 for any that is free"
        )
    if reason.errno == errno.EACCES:
        return EnvironmentProblem(f"--port {port} is only for root: give one above 1023")
    return UsageError(f"--host {host} is no address of this machine: {reason.strerror}")
