"""A server's life: until it answers, while it serves, and its end."""

from __future__ import annotations

import http.client
import re
import signal
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing

from slimgpt.errors import EnvironmentProblem, SlimGPTError, UsageError
from slimgpt_serve.launcher.address import Address, held
from slimgpt_serve.launcher.failure import refused_flag, why_it_ended
from slimgpt_serve.launcher.server import ServerProcess, collected_signals

_POLL_S = 0.2
_ANSWER_S = 5.0
_TEARDOWN_S = 30.0
_LOADING_S = 5.0
_KV_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_ARGPARSE_REFUSED = 2


def watch(
    start: Callable[[], ServerProcess],
    address: Address,
    drain_s: float,
    on_ready: Callable[[ServerProcess, float], None],
    tell: Callable[[str], None],
) -> int:
    """Starts the server, waits for it to answer, then for its end or for a signal.

    On the first SIGTERM or SIGINT vLLM ends what is under way; on the second it is killed, and soon
    after the first where it does not answer yet.

    Args:
        start: starts it.
        address: where it will answer.
        drain_s: seconds that requests under way get.
        on_ready: is given the server, and the seconds that it took.
        tell: is given what people should know meanwhile.

    Returns:
        the number of the signal that ended it.

    Raises:
        EnvironmentProblem: vLLM died, with the reason that its output gives; or another server of
            ours has the address.
        UsageError: vLLM refused one of its own flags.
    """
    started, ready = time.monotonic(), False
    with held(address), collected_signals() as came:
        server = start()
        try:
            while not came:
                if server.ended():
                    raise _died(server.close(), server.lines, ready=ready)
                if not ready and answers(address):
                    ready = True
                    on_ready(server, time.monotonic() - started)
                time.sleep(_POLL_S)
            if ready:
                tell(f"stopping: requests get {drain_s:.0f} s; the same signal again kills")
            # vLLM would load to the end first, which takes minutes, and no request is under way.
            _stop(server, came, drain_s + _TEARDOWN_S if ready else _LOADING_S)
            tell("stopped" if ready else "stopped before it was ready")
            return came[0]
        finally:
            server.end()


def _stop(server: ServerProcess, came: list[int], patience_s: float) -> None:
    """Lets vLLM end what is under way, until that takes too long or the user asks again."""
    server.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while not server.ended():
        if len(came) > 1 or time.monotonic() > deadline:
            server.kill()
        time.sleep(_POLL_S)


def answers(address: Address) -> bool:
    """Whether /health says 200: it does once the model is loaded, and needs no key."""
    connection: http.client.HTTPConnection
    if address.tls:
        # It is our own server, reached on this machine, whatever name its certificate has.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(
            address.reached_at, address.port, timeout=_ANSWER_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(address.reached_at, address.port, timeout=_ANSWER_S)
    with closing(connection):
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def kv_tokens(lines: Iterable[str]) -> int | None:
    """Tokens in the KV cache as vLLM counted them; None where its log does not say."""
    found = [match for match in map(_KV_TOKENS.search, lines) if match]
    return int(found[-1][1].replace(",", "")) if found else None


def _died(code: int, lines: Sequence[str], *, ready: bool) -> SlimGPTError:
    """The error of a server that ended by itself."""
    refused = refused_flag(lines)
    if code == _ARGPARSE_REFUSED and refused:
        return UsageError(f"vLLM does not take what stands after --: {refused}")
    when = "while it was serving" if ready else "before it was ready"
    return EnvironmentProblem(f"vLLM died {when}: {why_it_ended(lines, code)}")
