"""The server that is measured: its address, its model, and what it says of itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt_bench.load.client import Client
from slimgpt_bench.load.key import KEY_VARIABLE
from slimgpt_serve.build_info import METRIC

_OK, _MISSING = 200, 404
_DENIED = (401, 403)


@dataclass(frozen=True, slots=True)
class Target:
    """A server that answers.

    Attributes:
        url: without a path.
        model: as requests name it.
        context: most tokens of prompt and answer; None where it does not say.
        software: who it says owns the model: ``vllm``, ``slimgpt``.
        version: of it.
        digest: of the artefact that it serves; None where it does not say.
    """

    url: str
    model: str
    context: int | None
    software: str | None
    version: str | None
    digest: str | None

    def to_json(self) -> dict[str, Any]:
        server = {k: getattr(self, k) for k in ("software", "version", "digest", "context")}
        return {"url": self.url, "model": self.model, "server": server}


def plain_url(text: str) -> str:
    """The address without ``/v1`` and slashes at its end.

    Raises:
        UsageError: it is none, or carries a name and password.
    """
    try:
        parts = urlsplit(text)
        named = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        named = None
    if not named or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise UsageError(f"{_shown(text)} is no address: give one like http://127.0.0.1:8000")
    if parts.username or parts.password:
        raise UsageError(
            f"{_shown(text)} carries a password: give the key with --api-key-file or {KEY_VARIABLE}"
        )
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _shown(text: str) -> str:
    """Without what stands before an @."""
    return re.sub(r"(://)[^/@\s]*@", r"\1***@", text)


async def look_at(client: Client, url: str, model: str | None) -> Target:
    """Asks the server what it is.

    Args:
        client: that is connected to it.
        url: of it.
        model: that the user named.

    Raises:
        EnvironmentProblem: nobody answers there.
        UsageError: it wants a key, has no such model, or several.
    """
    try:
        status, text = await client.get("/v1/models")
    except OSError as reason:
        raise EnvironmentProblem(
            f"{url} does not answer ({' '.join(str(reason).split())}): start the server, or give "
            "its address"
        ) from None
    if status in _DENIED:
        raise UsageError(
            f"{url} asks for a key ({status}): give it with --api-key-file or {KEY_VARIABLE}"
        )
    rows = _rows(text) if status == _OK else []
    row = _row_of(rows, model, url)
    context, owner = row.get("max_model_len"), row.get("owned_by")
    return Target(
        url,
        str(row["id"]),
        context if type(context) is int else None,
        owner if isinstance(owner, str) else None,
        await _version(client),
        await _digest(client),
    )


async def answers(client: Client) -> bool:
    """Whether the server is still there."""
    try:
        await client.get("/v1/models")
    except OSError:
        return False
    return True


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    rows = found if isinstance(found, list) else []
    return [x for x in rows if isinstance(x, dict) and isinstance(x.get("id"), str)]


def _row_of(rows: list[dict[str, Any]], model: str | None, url: str) -> dict[str, Any]:
    names = [row["id"] for row in rows]
    if model is not None:
        if rows and model not in names:
            raise UsageError(f"--model {model} is not served at {url}: it has {', '.join(names)}")
        return next((row for row in rows if row["id"] == model), {"id": model})
    if not rows:
        raise UsageError(f"{url} does not say which models it has (/v1/models): give --model")
    if len(rows) > 1:
        raise UsageError(f"{url} serves {', '.join(names)}: say which with --model")
    return rows[0]


async def _version(client: Client) -> str | None:
    try:
        status, text = await client.get("/version")
        found = json.loads(text)["version"] if status == _OK else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


async def _digest(client: Client) -> str | None:
    """From the line of /metrics that a server of ours, or vLLM with our plugin, has."""
    try:
        status, text = await client.get("/metrics")
    except OSError:
        return None
    found = re.search(rf'^{METRIC}{{[^}}]*digest="([0-9a-f]{{64}})"', text, re.M)
    return found[1] if found and status == _OK else None
