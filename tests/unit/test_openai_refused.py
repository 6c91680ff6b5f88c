"""What ``slimgpt serve`` refuses of an ONNX export before it loads, each in one line."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimgpt.demo import MODEL
from slimgpt_serve.guard import VARIABLE
from tests.onnx_serving import export_small, say_portable
from tests.serve_line import ServeLine, settle


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small(tmp_path_factory.mktemp("export"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    return ServeLine(capfd).refuses


@pytest.fixture
def counted(capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(*options: object) -> dict[str, Any]:
        ended = ServeLine(capfd)(*options, "--dry-run", "--json")
        assert ended.code == 0, ended
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    return run


# -- which engine -------------------------------------------------------------------------------


def test_an_export_is_served_by_onnx_runtime_without_being_told(counted, export):
    found = counted(export)
    assert (found["engine"], found["served_model_name"]) == ("onnx", export.name)
    named = counted(export, "--engine", "onnx")
    del named["preflight"]["memory_bytes"], found["preflight"]["memory_bytes"]  # what is free now
    assert named == found


def test_people_are_told_which_engine_it_is(export, capfd):
    ended = ServeLine(capfd)(export, "--dry-run")
    assert (ended.code, ended.stderr) == (0, "")
    assert "engine                        onnx: MODEL is an ONNX export" in ended.stdout
    assert "context served                256 of the model's 256" in ended.stdout


def test_vllm_is_given_no_export(refused, export):
    said = refused(2, export, "--engine", "vllm")
    assert said.startswith(f"{export} is an ONNX export, which vLLM does not serve: leave --engine")


def test_a_checkpoint_is_no_export_and_how_to_make_one_is_said(refused):
    said = refused(2, MODEL, "--engine", "onnx")
    assert said == (
        f"{MODEL} is no ONNX export, which --engine onnx serves: make one with slimgpt export onnx "
        f"{MODEL} DIR, or give --engine vllm\n"
    )


def test_a_portable_export_is_not_served(refused, export, tmp_path):
    portable = say_portable(export, tmp_path / "portable")
    said = refused(2, portable)
    assert said.startswith(f"{portable} is a portable export, whose caches are copied with every")
    assert "export it again without --portable" in said


# -- flags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (("--tensor-parallel", 1), "--tensor-parallel"),
        (("--gpu-memory-utilization", 0.9), "--gpu-memory-utilization"),
        (("--draft", MODEL), "--draft"),
        (("--draft-tokens", 4), "--draft-tokens"),
        (("--", "--max-num-seqs", 4), "-- --max-num-seqs"),
    ],
)
def test_flags_of_vllm_are_refused(refused, export, options, flag):
    said = refused(2, export, *options)
    assert said == f"{flag} is for vLLM, and --engine onnx has no use for it: leave it out\n"


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        (("--max-concurrency", 4), "-- --max-num-seqs"),
        (("--max-waiting", 4), "a proxy that counts"),
        (("--threads", 1), "VLLM_CPU_OMP_THREADS_BIND"),
    ],
)
def test_flags_of_the_onnx_server_are_refused_for_vllm(refused, options, instead):
    said = refused(2, MODEL, "--dry-run", *options)
    assert said.startswith(f"{options[0]} is for --engine onnx, and {MODEL} is served by vLLM")
    assert instead in said


def test_the_number_format_is_fixed(refused, export):
    said = refused(2, export, "--dtype", "float16")
    assert said == (
        "--dtype float16: the precision of an ONNX export is fixed; export it again with slimgpt "
        "export onnx --precision\n"
    )


def test_a_word_that_is_no_device_is_refused(refused, export):
    said = refused(2, export, "--device", "tpu")
    assert said == "--device tpu: give auto, cpu, cuda or cuda:0, cuda:1, ...\n"


# -- room ---------------------------------------------------------------------------------------


def test_the_context_is_the_models_or_what_is_asked_for(counted, export):
    found = counted(export)["preflight"]
    a_token = 2 * 2 * 8 * 16 * 4  # keys and values of two layers of 8 heads of 16, in float32
    assert found["kv_bytes_per_token"] == a_token
    assert found["kv_cache_bytes"] == 4 * 256 * a_token
    asked = counted(export, "--max-model-len", 100, "--max-concurrency", 3, "--max-waiting", 7)
    found = asked["preflight"]
    assert (found["context"], found["kv_tokens"], found["max_waiting"]) == (100, 300, 7)


def test_a_context_beyond_the_models_is_refused(refused, export):
    said = refused(2, export, "--max-model-len", 257)
    assert said == "--max-model-len 257: give 2 to 256, the context of MODEL\n"


def test_more_texts_than_fit_the_memory_are_refused(refused, export):
    said = refused(4, export, "--max-concurrency", 10**9)
    assert "of KV cache (1000000000 texts of 256 tokens), and" in said
    assert "give a smaller --max-concurrency, or use a larger machine" in said


# -- where, and who -----------------------------------------------------------------------------


def test_a_port_in_use_is_refused_before_anything_is_loaded(refused, export, monkeypatch):
    monkeypatch.setattr("slimgpt.commands.serve_onnx._run", None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(4, export, "--port", port)
    assert said == (
        f"port {port} of 127.0.0.1 is in use: give another --port, or 0 for any that is free\n"
    )


def test_a_wide_address_without_a_key_that_anyone_sees_is_refused(refused, export):
    said = refused(2, export, "--host", "0.0.0.0", "--quiet")
    assert "one made now would be lost" in said


def test_a_damaged_export_is_refused(refused, export, tmp_path):
    shutil.copytree(export, tmp_path / "cut")
    with (tmp_path / "cut" / "model.onnx.data").open("r+b") as data:
        data.truncate(1000)
    assert "model.onnx.data" in refused(5, tmp_path / "cut", "--dry-run")


def test_a_missing_package_names_the_extra(refused, export, monkeypatch):
    monkeypatch.setattr("slimgpt_serve.openai_api.packages.PACKAGES", ("no_such_package",))
    said = refused(4, export, "--dry-run")
    assert said == (
        "slimgpt serve --engine onnx needs an optional package: install it with pip install "
        "'slimgpt[onnx]'\n"
    )
