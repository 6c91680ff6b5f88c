"""``slimgpt bench load`` on a real ``slimgpt serve``: lengths and counts are what was asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from slimgpt.demo import MODEL
from slimgpt.progress import Silent
from slimgpt_bench.load.job import run_load
from slimgpt_bench.load.options import Endpoint, LoadOptions
from slimgpt_serve.guard import VARIABLE
from tests.load_command import calm
from tests.onnx_serving import export_small, with_chat_template
from tests.serving.serving import Served


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def url(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | {"OMP_NUM_THREADS": "1"}
    served = with_chat_template(export, folder / "chat")
    options = (served, "--json", "--max-concurrency", 2)
    with closing(Served(Path(sys.executable), folder, *options, environment=environment)) as server:
        server.wait_ready()
        yield f"http://127.0.0.1:{server.port}"


def test_lengths_are_exact_and_counted_right(url: str) -> None:
    asked = LoadOptions(
        concurrency=(4,), requests=40, prompt="5:60", output="2:20", vocabulary=4096
    )
    found = calm(lambda: run_load(url, asked, Silent()))
    # More than the server has places for, so that there is a queue.
    assert found.document["valid"], found.document["problems"]
    for row in found.requests:
        if row["ok"]:
            assert row["prompt_tokens"] == row["asked_prompt_tokens"]
            assert row["output_tokens"] == row["asked_output_tokens"]
    level = found.document["levels"][0]
    assert level["tokens"]["usage_mismatches"] == level["tokens"]["early_stops"] == 0
    assert 0 < level["ttft_s"]["median"] <= level["e2e_s"]["median"]


def test_the_server_tells_what_it_serves(url: str) -> None:
    found = run_load(url, LoadOptions(rates=(10.0,), requests=20, tokenizer=MODEL), Silent())
    target = found.document["target"]
    assert target["server"]["software"] == "slimgpt"
    assert len(target["server"]["digest"]) == 64
    assert target["server"]["context"] == 256
    assert found.document["workload"]["source"]["kind"] == "token ids"


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_words_come_out_as_many_tokens_as_asked(url: str, endpoint: Endpoint) -> None:
    asked = LoadOptions(concurrency=(1,), requests=12, prompt="80", output="4", endpoint=endpoint)
    found = calm(lambda: run_load(url, asked, Silent()))
    assert found.document["valid"], found.document["problems"]
    prompts = [row["prompt_tokens"] for row in found.requests if row["ok"]]
    assert sum(prompts) / len(prompts) == pytest.approx(80, rel=0.2)
