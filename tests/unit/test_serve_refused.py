"""What ``slimgpt serve`` refuses before vLLM starts, each in one line."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from slimgpt.cli import run
from slimgpt.demo import MODEL
from slimgpt_serve.preflight.installed import installed_vllm
from tests.command_line import Desk, write_small
from tests.serve_line import HEAD, HEADS, LAYERS, ServeLine, settle

DENSE = str(MODEL)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)


@pytest.fixture
def small(tmp_path: Path) -> Desk:
    """A folder with the embedded model cut to two layers."""
    write_small(tmp_path / "model")
    return Desk(tmp_path)


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    return ServeLine(capfd).refuses


def test_a_degree_that_divides_no_layer_is_refused(refused):
    said = refused(2, DENSE, "--tensor-parallel", 3)
    assert said.startswith(f"{DENSE}: --tensor-parallel 3 does not divide layer 0 (8 query heads,")
    assert "give 1, 2, 4, 8" in said


def test_a_degree_that_does_not_divide_the_draft_names_it(refused, small):
    small.edit_config(intermediate_size=351)
    small.edit_weights(
        lambda weights: weights.update(
            {k: v[:351] for k, v in weights.items() if "gate" in k or "up_" in k}
            | {k: v[:, :351].contiguous() for k, v in weights.items() if "down" in k}
        )
    )
    said = refused(2, DENSE, "--draft", small.model, "--tensor-parallel", 2)
    assert said.startswith(f"{small.model}: --tensor-parallel 2 does not divide layer 0")


def test_weights_that_disagree_with_the_config_are_refused(refused, small):
    small.edit_config(intermediate_size=300)
    assert "but config.json makes it [300, 128]" in refused(5, small.model)


def test_a_context_beyond_the_models_is_refused(refused):
    said = refused(2, DENSE, "--max-model-len", 257)
    assert said == ("--max-model-len 257 is beyond the context of MODEL, 256: give at most that\n")


def test_a_context_that_does_not_fit_the_memory_is_refused(refused):
    few = 128 * 2 * 2 * HEADS * HEAD * LAYERS
    said = refused(4, DENSE, "--max-model-len", 200, "--", "--kv-cache-memory-bytes", few)
    assert said.startswith("--max-model-len 200 needs 1.2 MiB of KV cache on each device, and")
    assert "there are 768.0 KiB: give at most 128, a larger VLLM_CPU_KVCACHE_SPACE" in said


def test_a_cache_of_less_than_a_block_is_refused(refused):
    said = refused(4, DENSE, "--", "--kv-cache-memory-bytes", 1000)
    assert said.startswith("the KV cache of 1000 B holds not one token")


def test_a_model_larger_than_the_memory_is_refused(refused, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100000")
    said = refused(4, DENSE)
    assert said.startswith("the model needs 3.3 MiB of weights, about ")
    assert "and 97.7 TiB of KV cache on each device, and " in said
    assert "give a smaller VLLM_CPU_KVCACHE_SPACE, or use a larger machine" in said
    said = refused(4, DENSE, "--", "--kv-cache-memory-bytes", "100T")
    assert "give a smaller -- --kv-cache-memory-bytes, or use a larger machine" in said


def _swap_two_rare(vocabulary: dict[str, int]) -> None:
    """Two tokens that no probe has."""
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocab_size": 4095}, "has a vocabulary of 4095, and"),
        ({"tokenizer": "other"}, "splits text otherwise than"),
        ({"tokenizer": "swapped"}, "splits text otherwise than"),
        ({}, "vLLM's own class does not run this stock checkpoint on cpu"),
    ],
)
def test_a_draft_of_another_kind_is_refused(refused, small, change, says):
    if "vocab_size" in change:
        small.edit_config(**change)
        small.edit_weights(
            lambda w: w.update({"model.embed_tokens.weight": w["model.embed_tokens.weight"][:4095]})
        )
    if "tokenizer" in change:
        path = small.model / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        if change["tokenizer"] == "other":
            tokenizer["model"]["merges"] = []
        else:
            _swap_two_rare(tokenizer["model"]["vocab"])
        path.write_text(json.dumps(tokenizer))
    said = refused(2, DENSE, "--draft", small.model)
    assert said.startswith(f"--draft {small.model}")
    assert says in said


def test_a_draft_that_is_no_smaller_is_refused(refused):
    assert "a draft must be smaller" in refused(2, DENSE, "--draft", DENSE)


def test_a_draft_that_is_not_there_is_refused(refused):
    assert refused(2, DENSE, "--draft", "./none").startswith("--draft: ./none does not exist")


def test_one_gpu_of_several_is_refused(capfd):
    assert run(["serve", DENSE, "--device", "cuda:1", "--tensor-parallel", "2"]) == 2
    assert "choose them with CUDA_VISIBLE_DEVICES" in capfd.readouterr().err


def test_more_stages_than_layers_are_refused(refused):
    said = refused(2, DENSE, "--", "--pipeline-parallel-size", 99)
    assert "has 6 layers: give --pipeline-parallel-size at most that" in said


def test_a_wide_address_without_a_key_that_anyone_sees_is_refused(refused):
    assert "one made now would be lost" in refused(2, DENSE, "--host", "0.0.0.0", "--quiet")


def test_a_key_in_a_file_that_all_can_read_is_refused(refused, tmp_path):
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o644)
    said = refused(2, DENSE, "--api-key-file", tmp_path / "key")
    assert "can be read by every user" in said
    assert "secret" not in said


def test_a_port_in_use_is_refused_before_anything_is_counted(refused, monkeypatch):
    monkeypatch.setattr("slimgpt_serve.launcher.session.preflight", None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(4, DENSE, "--port", port)
    assert said == (
        f"port {port} of 127.0.0.1 is in use: give another --port, or 0 for any that is free\n"
    )


def test_a_plugin_list_without_ours_is_refused(refused, monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "lora_resolver")
    said = refused(4, DENSE, "--dry-run")
    assert said.startswith("VLLM_PLUGINS=lora_resolver leaves slimgpt out")


def test_an_unknown_quantisation_is_refused(refused, small):
    small.edit_config(quantization_config={"quant_method": "foo"})
    said = refused(2, small.model, "--dry-run")
    assert said.startswith(
        f"{small.model} is quantised by 'foo', which vLLM does not read: it takes"
    )


def test_draft_tokens_without_a_draft_are_refused(refused):
    said = refused(2, DENSE, "--dry-run", "--draft-tokens", 2)
    assert said == "--draft-tokens means nothing without --draft: give a draft model\n"


def test_a_dry_run_refuses_a_key_file_that_is_not_there(refused, tmp_path):
    said = refused(2, DENSE, "--dry-run", "--api-key-file", tmp_path / "key")
    assert said == f"--api-key-file {tmp_path}/key can't be read: No such file or directory\n"


@pytest.mark.skipif(installed_vllm() is not None, reason="vLLM is installed here")
def test_a_dry_run_says_that_vllm_is_missing(capfd):
    assert "note: vLLM is not installed here" in ServeLine(capfd)(DENSE, "--dry-run").stdout


@pytest.mark.skipif(installed_vllm() is not None, reason="vLLM is installed here")
def test_a_missing_vllm_names_the_extra(refused):
    assert refused(4, DENSE, "--port", 0) == (
        "slimgpt serve needs an optional package: install it with pip install 'slimgpt[vllm]'\n"
    )
