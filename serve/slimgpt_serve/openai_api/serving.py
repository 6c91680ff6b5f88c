"""A server's life: loading, until it answers, while it serves, and its end. Alone imports uvicorn.

It runs in this process: there is no engine process that could outlive it. ONNX Runtime loads in a
thread, so that a signal is heard meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import uvicorn

from slimgpt.errors import EnvironmentProblem
from slimgpt_serve.guard import VARIABLE, RequireKey
from slimgpt_serve.launcher.address import Address, held
from slimgpt_serve.launcher.launch import DRAIN_S
from slimgpt_serve.launcher.server import collected_signals
from slimgpt_serve.openai_api.app import make_app
from slimgpt_serve.openai_api.engine import Engine
from slimgpt_serve.openai_api.loading import Loaded, load
from slimgpt_serve.openai_api.logs import LOGGING
from slimgpt_serve.openai_api.session import Session

_POLL_S = 0.05
_REST_S = 2.0
_BACKLOG = 2048


def serve(
    session: Session,
    on_ready: Callable[[Loaded, float], None],
    tell: Callable[[str], None],
    *,
    access_log: bool,
) -> tuple[int, bool]:
    """Loads and serves until a signal: the first lets requests end, the second does not.

    Args:
        session: that was prepared.
        on_ready: is given what was loaded, and the seconds that it took.
        tell: is given what people should know meanwhile.
        access_log: write a line for each request to standard error.

    Returns:
        The number of the signal that ended it, and whether it was ready before.

    Raises:
        EnvironmentProblem: the address was taken meanwhile, or loading failed for lack of
            something.
        IntegrityError: the graph can't be run.
    """
    started = time.monotonic()
    with held(session.address), collected_signals() as came:
        loading = _Loading(session)
        loading.start()
        while loading.is_alive() and not came:
            loading.join(_POLL_S)
        if came:
            tell("stopped before it was ready")
            return came[0], False
        loaded = loading.result()
        with _listening(session.address) as listener:
            loaded.service.engine.start()

            def ready() -> None:
                on_ready(loaded, time.monotonic() - started)

            try:
                asyncio.run(_serve(loaded, session, listener, came, ready, tell, access_log))
            finally:
                loaded.service.engine.stop()
        tell("stopped")
        return came[0], True


class _Loading(Thread):
    """Loads; ONNX Runtime can't be interrupted, but it need not be waited for."""

    def __init__(self, session: Session) -> None:
        super().__init__(name="slimgpt-loading", daemon=True)
        self._session = session
        self._loaded: Loaded | None = None
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._loaded = load(self._session)
        except BaseException as reason:  # noqa: BLE001 - raised again where it is waited for
            self._failure = reason

    def result(self) -> Loaded:
        if self._failure:
            raise self._failure
        assert self._loaded
        return self._loaded


@contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    """A socket that listens at an address which was free before the model was loaded."""
    host = address.host.strip("[]") or None
    found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(where)
            listener.listen(_BACKLOG)
        except OSError as reason:
            raise EnvironmentProblem(
                f"port {address.port} of {address.host} was taken while the model was loaded "
                f"({reason.strerror}): give another --port, or 0 for any that is free"
            ) from None
        yield listener


async def _serve(
    loaded: Loaded,
    session: Session,
    listener: socket.socket,
    came: list[int],
    ready: Callable[[], None],
    tell: Callable[[str], None],
    access_log: bool,
) -> None:
    app: Any = make_app(loaded.service)
    if session.access.key:
        os.environ[VARIABLE] = session.access.key  # where the guard reads it, as under vLLM
        app = RequireKey(app)
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            server_header=False,
            access_log=access_log,
            log_config=LOGGING,
        )
    )
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(_POLL_S)
    ready()
    while not (came or serving.done()):
        await asyncio.sleep(_POLL_S)
    tell(f"stopping: requests get {DRAIN_S} s; the same signal again ends them")
    await _drain(server, serving, loaded.service.engine, came)


async def _drain(
    server: uvicorn.Server, serving: asyncio.Task[None], engine: Engine, came: list[int]
) -> None:
    """Lets requests end, until that takes too long or the user asks again."""
    engine.refuse_new()
    server.should_exit = True
    deadline = time.monotonic() + DRAIN_S
    while not serving.done():
        if len(came) > 1:
            deadline = min(deadline, time.monotonic())
        if time.monotonic() >= deadline:
            # What is under way is told that it failed, and ends by itself ...
            await asyncio.to_thread(engine.stop)
        # ... but for clients that do not read.
        server.force_exit = time.monotonic() >= deadline + _REST_S
        await asyncio.sleep(_POLL_S)
    await serving


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again when it has ended."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
