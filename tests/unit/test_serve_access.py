"""Who may ask a server, and where it listens."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt_serve.guard import OPEN, RequireKey
from slimgpt_serve.launcher.access import access, is_loopback
from slimgpt_serve.launcher.address import Address, claim, held


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_nobody_needs_a_key_on_loopback(host):
    assert is_loopback(host)
    assert access(host, None, {}, quiet=True).key is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "server.example"])
def test_a_key_is_made_for_any_wider_address(host):
    made = [access(host, None, {}, quiet=False) for _ in range(2)]
    assert all(x.made and x.key and len(x.key) > 40 for x in made)
    assert made[0].key != made[1].key


def test_a_key_that_nobody_would_see_is_not_made():
    with pytest.raises(UsageError, match="one made now would be lost with --quiet"):
        access("0.0.0.0", None, {}, quiet=True)


def test_a_given_key_holds_on_loopback_too_and_the_option_wins(tmp_path):
    file = tmp_path / "key"
    file.write_text("from-file\n")
    file.chmod(0o600)
    environ = {"VLLM_API_KEY": "from-environment"}
    assert access("127.0.0.1", None, environ, quiet=True).key == "from-environment"
    found = access("127.0.0.1", file, environ, quiet=True)
    assert (found.key, found.made) == ("from-file", False)


def test_a_key_is_in_no_representation():
    assert "secret" not in repr(access("0.0.0.0", None, {"VLLM_API_KEY": "secret"}, quiet=True))


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"\n", 0o600, "is empty: put the key there"),
        (b"key\n", 0o604, "can be read by every user: chmod 600 it"),
        (b"two words\n", 0o600, "holds more than a key"),
        (b"one\ntwo\n", 0o600, "holds more than a key"),
        ("schlüssel".encode(), 0o600, "holds more than a key"),
        (b"\xff\xfe", 0o600, "is no text"),
    ],
)
def test_a_file_that_holds_no_key_is_refused(tmp_path, content, mode, says):
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(UsageError, match=says):
        access("127.0.0.1", file, {}, quiet=False)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="can't be read: No such file"):
        access("127.0.0.1", tmp_path / "key", {}, quiet=False)


# -- addresses ----------------------------------------------------------------------------------


def test_port_0_is_any_that_is_free():
    address = claim("127.0.0.1", 0)
    assert address.port > 0
    assert claim("127.0.0.1", address.port) == address


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has the names that are held")
def test_a_server_keeps_its_address_from_others_of_ours_before_it_listens():
    address = claim("127.0.0.1", 0)
    other = Address("127.0.0.2", address.port)
    for _ in range(2):
        with (
            held(address),
            held(other),
            pytest.raises(EnvironmentProblem, match=f"port {address.port} of .* is in use"),
            held(address),
        ):
            pass


def test_a_port_in_use_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=f"port {port} of 127.0.0.1 is in use"):
            claim("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "says"),
    [("no.such.host.invalid", "can't be resolved"), ("192.0.2.1", "no address of this machine")],
)
def test_a_host_that_is_not_here_is_refused(host, says):
    with pytest.raises(UsageError, match=says):
        claim(host, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may take any port")
def test_a_port_for_root_is_refused():
    with pytest.raises(EnvironmentProblem, match="only for root"):
        claim("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (Address("0.0.0.0", 80), "http://127.0.0.1:80/v1"),
        (Address("::", 80), "http://[::1]:80/v1"),
        (Address("::1", 80, tls=True), "https://[::1]:80/v1"),
        (Address("box", 80), "http://box:80/v1"),
    ],
)
def test_the_url_is_one_that_clients_here_can_use(address, url):
    assert address.url == url


# -- the guard ----------------------------------------------------------------------------------


def _ask(path: str, method: str = "POST", key: str | None = None, kind: str = "http") -> Any:
    """What the guard lets through, or its answer."""
    sent: list[Any] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        await send("passed")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    scope = {"type": kind, "path": path, "headers": headers, "root_path": ""}
    asyncio.run(RequireKey(app)(scope | {"method": method}, receive, send))
    return sent[0]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "right")


@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/tokenize",
        "/scale_elastic_ep",
        "/docs",
        "/",
        "/v1/completions",
        "/v2/rerank",
    ],
)
def test_every_path_needs_the_key_whether_vllm_guards_it_or_not(path):
    assert _ask(path)["status"] == 401
    assert _ask(path, key="wrong")["status"] == 401
    assert _ask(path, key="right") == "passed"


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_prometheus_need_none(path):
    assert _ask(path, "GET") == "passed"
    assert _ask(path, "POST")["status"] == 401


def test_the_guard_brings_nothing_into_vllms_process():
    line = "import sys, slimgpt_serve.guard; print(*sys.modules)"
    brought = subprocess.run(
        [sys.executable, "-c", line], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {x for x in brought if x.partition(".")[0] in ("slimgpt", "slimgpt_serve")} == {
        "slimgpt_serve",
        "slimgpt_serve.guard",
    }


def test_browsers_may_ask_what_they_may_ask():
    assert _ask("/invocations", "OPTIONS") == "passed"


def test_a_websocket_without_the_key_is_closed():
    assert _ask("/socket", kind="websocket") == {"type": "websocket.close", "code": 1008}
    assert _ask("/", kind="lifespan") == "passed"
