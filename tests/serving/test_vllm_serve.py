"""``vllm serve OUT``, with nothing said about slimgpt: the plugin is found by itself."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt.loading import load_model
from slimgpt.tokenizer import load_tokenizer
from tests.serving.engines import Engines, prune_embedded
from tests.serving.serving import READY_S

pytestmark = [pytest.mark.serving, pytest.mark.slow]

PROMPT, TOKENS = "Once upon a time", 24


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "out"
    prune_embedded(path, "0.5")
    return path


@pytest.fixture(scope="module")
def address(engines: Engines, out: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of vLLM's own command, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    settings = ["--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command = [str(engines.python.with_name("vllm")), "serve", str(out), *settings]
    with log.open("w") as file:
        server = subprocess.Popen(command, env=engines.environment(), stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(server, url, log)
        yield url
    finally:
        server.terminate()
        server.wait(120)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        assert server.poll() is None, log.read_text()[-5000:]
        assert time.monotonic() < deadline, log.read_text()[-5000:]
        try:
            if urllib.request.urlopen(f"{url}/health", timeout=5).status == 200:
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)


def test_the_text_is_that_of_transformers(address: str, out: Path) -> None:
    asked: dict[str, Any] = {
        "model": str(out),
        "prompt": PROMPT,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    request = urllib.request.Request(
        f"{address}/v1/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        said = json.load(response)["choices"][0]["text"]
    model, _ = load_model(out, device="cpu")
    tokenizer = load_tokenizer(out)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    new = model.generate(ids, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    assert said == tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True)
