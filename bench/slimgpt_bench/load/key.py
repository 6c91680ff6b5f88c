"""The key that a server asks for: from a file or the environment, never from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slimgpt.errors import UsageError
from slimgpt_serve.launcher.access import access

KEY_VARIABLE = "SLIMGPT_API_KEY"


def read_key(path: Path | None, environ: Mapping[str, str]) -> str | None:
    """The key, or None where there is none.

    Args:
        path: a file that holds the key alone, and that not everybody may read.
        environ: may hold it under :data:`KEY_VARIABLE`.

    Raises:
        UsageError: the file can't be read, or what is there is no key.
    """
    if path:
        return access("localhost", path, {}, quiet=True).key
    key = environ.get(KEY_VARIABLE)
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{KEY_VARIABLE} holds more than a key: one word of ASCII characters")
    return key or None
