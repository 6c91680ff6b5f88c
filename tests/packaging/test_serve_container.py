"""How the server's container starts and how it says that it is well, carried out here."""

import http.server
import importlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import yaml

from slimgpt.cli import VERBS
from tests.packaging.dockerfile import FOLDER, final

pytestmark = pytest.mark.packaging

ENTRYPOINT = FOLDER / "serve-entrypoint.sh"
ECHO = """#!/bin/sh
echo "key: ${VLLM_API_KEY-none}"
echo "file: ${VLLM_API_KEY_FILE-none}"
echo "pid: $$"
echo "arguments: $*"
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """With a ``slimgpt`` first that prints what it was given."""
    stand_in = tmp_path / "bin/slimgpt"
    stand_in.parent.mkdir()
    stand_in.write_text(ECHO)
    stand_in.chmod(0o755)
    return f"{stand_in.parent}:{os.environ['PATH']}"


def _start(path: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ENTRYPOINT), *arguments],
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_it_is_what_the_image_starts() -> None:
    (copied,) = [each.words() for each in final("serve", "COPY") if "serve-entrypoint" in each.text]
    (entry,) = final("serve", "ENTRYPOINT")
    assert copied == [f"docker/{ENTRYPOINT.name}", f"/usr/local/bin/{entry.words()[0]}"]


def test_it_serves_on_every_address_and_the_caller_has_the_last_word(path: str) -> None:
    started = _start(path, "/model", "--port", "9000", "--", "--kv-cache-dtype", "fp8")
    assert started.stdout.splitlines()[-1] == (
        "arguments: serve --host 0.0.0.0 --port 8000 /model --port 9000 -- --kv-cache-dtype fp8"
    )


def test_the_server_replaces_the_shell(path: str) -> None:
    """So that SIGTERM reaches it: the process that was started is the one that serves."""
    process = subprocess.Popen(
        [str(ENTRYPOINT)], env={"PATH": path}, stdout=subprocess.PIPE, text=True
    )
    printed, _ = process.communicate(timeout=30)
    assert f"pid: {process.pid}\n" in printed


def test_the_key_comes_from_the_environment(path: str) -> None:
    assert "key: abc\n" in _start(path, VLLM_API_KEY="abc").stdout


def test_the_key_comes_from_a_file(path: str, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("abc\n")
    started = _start(path, VLLM_API_KEY_FILE=str(secret))
    assert started.stdout.startswith("key: abc\nfile: none\n")


def test_two_keys_are_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("abc")
    ended = _start(path, VLLM_API_KEY="def", VLLM_API_KEY_FILE=str(tmp_path / "key"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "VLLM_API_KEY and VLLM_API_KEY_FILE are both set; set one\n"


def test_a_key_file_that_is_not_there_is_refused(path: str, tmp_path: Path) -> None:
    ended = _start(path, VLLM_API_KEY_FILE=str(tmp_path / "key"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"VLLM_API_KEY_FILE names {tmp_path}/key, which user {os.getuid()} can't read; "
        "mount it readable\n"
    )


def test_an_empty_key_file_is_refused(path: str, tmp_path: Path) -> None:
    """vLLM takes an empty key for none, and would ask nobody for one."""
    (tmp_path / "key").write_text("\n")
    ended = _start(path, VLLM_API_KEY_FILE=str(tmp_path / "key"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"VLLM_API_KEY_FILE names {tmp_path}/key, which is empty; put the key there\n"
    )


@pytest.mark.parametrize("where", ["compose", "deployment", "kserve"])
def test_every_flag_that_the_container_is_given_is_one_of_serve(where: str) -> None:
    module, _, name = VERBS["serve"].partition(":")
    command = getattr(importlib.import_module(module), name)
    known = {option for each in command.params for option in each.opts}
    ours = ["--host", "--port", *_arguments(where)]
    before_vllms = itertools.takewhile(lambda word: word != "--", ours)
    given = {word for word in before_vllms if word.startswith("--")}
    assert given <= known


def _arguments(where: str) -> list[str]:
    """After the entry point's own."""
    if where == "compose":
        service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["serve"]
        return cast("list[str]", service["command"])
    if where == "deployment":
        pod = yaml.safe_load((FOLDER / "kubernetes/deployment.yaml").read_text())
        (container,) = pod["spec"]["template"]["spec"]["containers"]
    else:
        pod = yaml.safe_load((FOLDER / "kubernetes/kserve/inference-service.yaml").read_text())
        (container,) = pod["spec"]["predictor"]["containers"]
    return cast("list[str]", container["args"])


class _Health(http.server.BaseHTTPRequestHandler):
    """Answers as vLLM does: the class attribute of the server says how it is."""

    def do_GET(self) -> None:
        assert self.path == "/health"
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Not on the test's standard error."""


@pytest.fixture
def vllm() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Health)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_it_is_healthy_when_the_engine_is(
    vllm: http.server.HTTPServer, status: int, code: int
) -> None:
    vllm.status = status  # type: ignore[attr-defined]
    assert _check_health(vllm.server_port) == code


def test_it_is_not_healthy_while_nothing_listens(vllm: http.server.HTTPServer) -> None:
    port = vllm.server_port
    vllm.shutdown()
    vllm.server_close()
    assert _check_health(port) == 1


def _check_health(port: int) -> int:
    """The image's own line, but for the port; a proxy that swallows all must not matter."""
    (check,) = final("serve", "HEALTHCHECK")
    python, *arguments = json.loads(check.text.removeprefix("CMD "))
    assert python == "python3"
    return subprocess.run(
        [sys.executable, *(each.replace("8000", str(port)) for each in arguments)],
        env={"http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        check=False,
        timeout=30,
    ).returncode
