"""Who may ask: anyone on this machine, or whoever has the key."""

from __future__ import annotations

import ipaddress
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slimgpt.errors import UsageError
from slimgpt_serve.guard import VARIABLE


@dataclass(frozen=True, slots=True)
class Access:
    """How the server is guarded.

    Attributes:
        key: what a client must bring, or None.
        made: the key was made now, and nobody knows it yet.
    """

    key: str | None
    made: bool = False

    def __repr__(self) -> str:
        """Without the key, which no log or traceback is to show."""
        return f"Access(key={'...' if self.key else None}, made={self.made})"


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # another name: what it resolves to may change
        return False


def access(host: str, key_file: Path | None, environ: Mapping[str, str], *, quiet: bool) -> Access:
    """The key that clients need; on loopback one that is given, elsewhere one in any case.

    Raises:
        UsageError: the file or the variable holds no usable key, or a key that must be made could
            not be shown.
    """
    if key_file:
        return Access(_checked(_read(key_file), f"--api-key-file {key_file}"))
    if environ.get(VARIABLE):
        return Access(_checked(environ[VARIABLE], VARIABLE))
    if is_loopback(host):
        return Access(None)
    if quiet:
        raise UsageError(
            f"--host {host} is reached from elsewhere and needs a key, and one made now would be "
            f"lost with --quiet: give --api-key-file or {VARIABLE}"
        )
    return Access(secrets.token_urlsafe(32), made=True)


def _read(path: Path) -> str:
    try:
        if path.stat().st_mode & stat.S_IROTH:
            raise UsageError(
                f"--api-key-file {path} can be read by every user: chmod 600 it, and change the key"
            )
        return path.read_text("utf-8").strip()
    except OSError as reason:
        raise UsageError(f"--api-key-file {path} can't be read: {reason.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--api-key-file {path} is no text: it holds the key alone") from None


def _checked(key: str, where: str) -> str:
    """A key as an HTTP header carries it."""
    if not key:
        raise UsageError(f"{where} is empty: put the key there")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{where} holds more than a key: one word of ASCII characters")
    return key
