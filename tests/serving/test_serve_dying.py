"""A server whose engine dies at its start, and what of vLLM's is written down here."""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from slimgpt.demo import MODEL
from slimgpt_serve.head_sizes import CPU_HEAD_SIZES
from tests.serving.engines import Engines
from tests.serving.serving import Served, environment

pytestmark = [pytest.mark.serving, pytest.mark.slow]


def _dying(engines: Engines, folder: Path) -> dict[str, Any]:
    """An engine that fails in a worker, with what vLLM asks for missing."""
    server = Served(
        engines.python,
        folder,
        MODEL,
        "--",
        "--load-format",
        "runai_streamer",
        environment=environment(engines),
    )
    with closing(server):
        while not (sessions := server.sessions()):
            assert server.process.poll() is None, server.err
            time.sleep(0.05)
        code, left = server.ended(sessions)
        return {"code": code, "left": left, "last": server.err.splitlines()[-1]}


@pytest.fixture(scope="module")
def dying(engines: Engines) -> Any:
    return engines.once("serve-dying", lambda folder: _dying(engines, folder))


def test_an_engine_that_dies_at_its_start_says_why_in_one_line(dying):
    assert dying["code"] == 4
    assert re.match(r"slimgpt: vLLM died before it was ready: \w+Error: .*", dying["last"])
    assert "Engine core initialization failed" not in dying["last"]


def test_nothing_is_left_of_an_engine_that_died(dying):
    assert dying["left"] == []


def test_the_head_sizes_are_those_of_the_installed_vllm(vllm_python, engines):
    code = (
        "from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend as B; "
        "print(*B.get_supported_head_sizes())"
    )
    asked = subprocess.run(
        [vllm_python, "-c", code],
        env=environment(engines),
        capture_output=True,
        text=True,
        check=True,
    )
    assert tuple(map(int, asked.stdout.split()[-len(CPU_HEAD_SIZES) :])) == CPU_HEAD_SIZES
