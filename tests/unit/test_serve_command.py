"""``slimgpt serve`` up to the point where vLLM would start: what it counts."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from slimgpt.demo import MODEL
from slimgpt_serve.launcher.access import Access
from slimgpt_serve.launcher.address import Address
from slimgpt_serve.launcher.launch import command
from slimgpt_serve.launcher.session import Asked, prepare
from slimgpt_serve.preflight.artefact import artefact_digest, read_artefact
from slimgpt_serve.preflight.check import Wishes, preflight
from slimgpt_serve.preflight.machine import Device
from slimgpt_serve.preflight.memory import GIB
from slimgpt_serve.preflight.vllm_flags import VllmFlags
from tests.command_line import Desk, write_small
from tests.serve_line import CONTEXT, HEAD, HEADS, LAYERS, ServeLine, settle
from tests.tiny_models import Case, write

DENSE = str(MODEL)
PRUNED = {"model_type": "slimgpt_llama", "architectures": ["SlimLlamaForCausalLM"]}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)


@pytest.fixture
def small(tmp_path: Path) -> Desk:
    """A folder with the embedded model cut to two layers."""
    write_small(tmp_path / "model")
    return Desk(tmp_path)


@pytest.fixture
def serve(capfd: pytest.CaptureFixture[str]) -> ServeLine:
    return ServeLine(capfd)


def _counted(serve: ServeLine, *options: object) -> dict[str, Any]:
    ended = serve(DENSE, "--dry-run", "--json", *options)
    assert ended.code == 0, ended
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


# -- what is counted ----------------------------------------------------------------------------


def test_a_dry_run_counts_and_starts_nothing(serve):
    found = _counted(serve)["preflight"]
    a_token = 2 * 2 * HEADS * HEAD * LAYERS
    assert found["per_device"]["kv_bytes_per_token"] == a_token
    assert found["per_device"]["weight_bytes"] == read_artefact("m", MODEL).shape.weight_bytes(2)
    assert found["kv_tokens"] == GIB // (a_token * 128) * 128
    assert found["longest_context"] == found["context"] == found["model_context"] == CONTEXT
    assert found["concurrency_at_context"] == round(found["kv_tokens"] / CONTEXT, 2)
    assert found["served_by"] == "SlimLlamaForCausalLM"


def test_people_get_the_same_numbers_with_their_units(serve):
    ended = serve(DENSE, "--dry-run")
    assert (ended.code, ended.stderr) == (0, "")
    assert "KV cache of a token           6.0 KiB" in ended.stdout
    assert "tokens in the KV cache        174,720" in ended.stdout
    assert "activations (estimate)" in ended.stdout
    assert "note: vLLM's CPU kernels take no heads of 16: they are widened to 32" in ended.stdout


def test_a_wider_number_format_halves_the_tokens(serve):
    half, whole = (_counted(serve, "--dtype", x)["preflight"] for x in ("bfloat16", "float32"))
    assert whole["kv_tokens"] == half["kv_tokens"] // 2 // 128 * 128
    assert whole["per_device"]["weight_bytes"] == 2 * half["per_device"]["weight_bytes"]


def test_a_smaller_cache_format_counts(serve):
    usual = _counted(serve)["preflight"]["per_device"]["kv_bytes_per_token"]
    fp8 = _counted(serve, "--", "--kv-cache-dtype", "fp8")["preflight"]
    assert fp8["per_device"]["kv_bytes_per_token"] == usual // 2


def test_without_a_wish_the_context_is_the_longest_that_fits(serve):
    few = 128 * 2 * 2 * HEADS * HEAD * LAYERS
    found = _counted(serve, "--", "--kv-cache-memory-bytes", few)["preflight"]
    assert found["context"] == found["longest_context"] == found["kv_tokens"] == 128
    assert "the context is 128 tokens, the longest that fits" in found["notes"][-1]


def test_windows_on_some_layers_are_told_of(serve, tmp_path):
    windows = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
    dense = write(Case("qwen2", windows), tmp_path).path
    ended = serve(dense, "--dry-run", "--json")
    assert "some layers have windows" in json.loads(ended.stdout)["preflight"]["notes"][-1]


def test_the_draft_counts_in_memory_and_context(serve, small):
    small.edit_config(max_position_embeddings=100, **PRUNED)
    alone = _counted(serve)["preflight"]
    found = _counted(serve, "--draft", small.model, "--draft-tokens", 3, "--tensor-parallel", 1)
    both = found["preflight"]
    assert both["context"] == 100
    assert both["per_device"]["weight_bytes"] > alone["per_device"]["weight_bytes"]
    assert both["kv_tokens"] < alone["kv_tokens"]
    command = found["command"]
    config = json.loads(command[command.index("--speculative-config") + 1])
    assert config == {
        "method": "draft_model",
        "model": str(small.model),
        "num_speculative_tokens": 3,
        "draft_tensor_parallel_size": 1,
    }


def test_vllm_is_given_what_was_found_and_the_users_flags_last(serve):
    command = _counted(serve, "--seed", 7, "--max-model-len", 99, "--", "--max-num-seqs", 5)[
        "command"
    ]
    pairs = dict(pairwise(command))
    assert pairs["--max-model-len"] == "99"
    assert pairs["--seed"] == "7"
    assert pairs["--served-model-name"] == "model"
    assert json.loads(pairs["--hf-overrides"]) == {"architectures": ["SlimLlamaForCausalLM"]}
    assert command[-2:] == ["--max-num-seqs", "5"]
    assert "--api-key" not in command


def test_pipeline_stages_share_the_layers_out(serve):
    whole = _counted(serve)["preflight"]
    found = _counted(serve, "--", "-pp", 2)["preflight"]
    kv = "kv_bytes_per_token"
    assert (found["tensor_parallel"], found["pipeline_parallel"]) == (1, 2)
    assert found["per_device"][kv] == whole["per_device"][kv] // 2
    assert found["per_device"]["weight_bytes"] < whole["per_device"]["weight_bytes"]


def test_the_document_has_the_name_that_the_user_gave(serve):
    assert _counted(serve)["served_model_name"] == "model"
    assert _counted(serve, "--", "--served-model-name", "mine")["served_model_name"] == "mine"


def test_vllm_takes_the_cache_of_its_flag_and_not_that_of_the_variable():
    asked = Asked(
        model=(DENSE, MODEL),
        draft=None,
        draft_tokens=4,
        host="127.0.0.1",
        port=0,
        api_key_file=None,
        tensor_parallel=1,
        max_model_len=None,
        gpu_memory_utilization=0.9,
        dtype="auto",
        device="cpu",
        seed=0,
        vllm_flags=["--kv-cache-memory-bytes", "2G"],
        environ={"VLLM_CPU_KVCACHE_SPACE": "1"},
        quiet=False,
        dry_run=True,
    )
    session = prepare(asked)
    assert session.found.budget.kv_bytes == 2 * GIB
    assert "VLLM_CPU_KVCACHE_SPACE" not in session.environment
    usual = prepare(replace(asked, vllm_flags=[]))
    assert usual.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_on_a_gpu_vllm_fits_the_context_to_what_it_measures(monkeypatch):
    monkeypatch.setattr(
        "slimgpt_serve.preflight.check.gpus", lambda _: [Device(3 * GIB, 3 * GIB, "L4")]
    )
    wishes = Wishes(1, None, 0.9, "auto", VllmFlags(["--max-num-seqs", "8"]))
    model = read_artefact("m", MODEL)
    roomy = preflight(model, None, wishes, "cuda", None, {})
    assert (roomy.context, roomy.vllm_decides) == (CONTEXT, False)
    few = replace(wishes, flags=VllmFlags(["--kv-cache-memory-bytes", "600K"]))
    tight = preflight(model, None, few, "cuda", None, {})
    assert (tight.context, tight.vllm_decides) == (192, True)
    assert "vLLM measures the memory" in tight.notes[-1]
    line = command(model, None, few, tight, Address("::1", 1), Access(None), seed=0)
    assert dict(pairwise(line))["--max-model-len"] == "auto"
    asked = replace(few, context=100)
    assert not preflight(model, None, asked, "cuda", None, {}).vllm_decides


def test_a_digest_follows_config_and_tensors_and_the_manifest_where_there_is_one(small):
    first = artefact_digest(small.model)
    assert artefact_digest(small.model) == first
    small.edit_config(rms_norm_eps=1e-6)
    second = artefact_digest(small.model)
    small.edit_weights(lambda weights: weights.pop("model.norm.weight"))
    third = artefact_digest(small.model)
    (small.model / "slimgpt.json").write_text("{}")
    assert len({first, second, third, artefact_digest(small.model)}) == 4
