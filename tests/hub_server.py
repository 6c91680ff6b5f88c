"""A hub of one's own over real HTTP, which fails where it is told to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.hub_state import Asked, Hub

HANG_UP, STAY_SILENT, NONSENSE = "hang up", "stay silent", "nonsense"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        fault = next((f for part, f in self.hub.faults.items() if part in path), None)
        if fault == HANG_UP:
            self.rfile.read(1)  # in the middle of it
            return self._hang_up()
        body = self._body()
        asked = Asked(self.command, path, self.headers.get("authorization"), body)
        self.hub.asked.append(asked)
        if fault == STAY_SILENT:
            self.rfile.read()  # until the other end gives up
            return self._hang_up()
        if isinstance(fault, int):
            words = self.hub.words.format(authorization=asked.authorization)
            return self._send(fault, json.dumps({"error": words}).encode())
        if fault == NONSENSE:
            return self._send(200, b"<html>a proxy's page</html>")
        status, value = self.hub.answer(asked)
        return self._send(status, json.dumps(value).encode())

    do_GET = do_PUT = do_POST  # noqa: N815 - likewise

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def running_hub(token: str) -> Iterator[Hub]:
    """A hub on a free port of this machine, which knows one token."""
    hub = Hub(token)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
