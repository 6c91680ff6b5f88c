"""``slimgpt export onnx`` as a user sees it: what it says, refuses, and leaves behind."""

from __future__ import annotations

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.onnx_export import is_onnx
from slimgpt_export.onnx import foreign
from slimgpt_export.onnx.build import DATA, GRAPH
from slimgpt_export.onnx.graph import GraphOptions, build_graph
from slimgpt_export.onnx.sample import read_sample
from slimgpt_serve.onnx_runtime import installed
from slimgpt_serve.onnx_runtime.whole_texts import logits_of_texts
from tests.command_line import ENVIRONMENT, INTEGRITY, USAGE, Desk

GATE = 1


def command(desk: Desk, *arguments: object) -> list[str]:
    return ["export", "onnx", *(str(x) for x in (desk.model, desk.out, *arguments))]


# -- what it says -------------------------------------------------------------------------------


def test_the_document_says_what_was_written_and_how_it_was_checked(desk: Desk) -> None:
    ended = desk.run(command(desk, "--precision", "int4", "--json", "--quiet"))
    assert (ended.code, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert document["weight_bytes"] == (desk.out / DATA).stat().st_size
    parity = document["parity"]
    assert parity["provider"] == "CPUExecutionProvider"
    assert parity["prefill"]["largest"] < 0.5
    assert parity["rounding"]["kl"] > 0
    measured = document["sensitivity"]["measured"]
    assert {tuple(row["raised"]) for row in measured} >= {(), ("head",)}
    assert document["peak_rss_bytes"] > 0


def test_the_folder_verifies_and_is_described(desk: Desk) -> None:
    assert desk.run(command(desk, "--quiet")).code == 0
    ended = desk.run(["verify", str(desk.out), "--json", "--quiet"])
    assert ended.code == 0, ended.stderr
    ended = desk.run(["inspect", str(desk.out), "--json"])
    assert json.loads(ended.stdout)["onnx"]["precision"] == "fp32"
    card = (desk.out / "README.md").read_text()
    assert "library_name: onnx" in card
    assert "slimgpt serve DIR --engine onnx" in card


def test_a_folder_that_was_changed_does_not_verify(desk: Desk) -> None:
    assert desk.run(command(desk, "--quiet")).code == 0
    with (desk.out / DATA).open("r+b") as file:
        file.write(b"\x00\x01")
    assert desk.run(["verify", str(desk.out), "--quiet"]).code == INTEGRITY


@pytest.mark.parametrize(("key", "value"), [("precision", "int4"), ("source", "0" * 64)])
def test_a_graph_of_another_export_does_not_verify(key: str, value: str, desk: Desk) -> None:
    assert desk.run(command(desk, "--quiet")).code == 0
    model = onnx.load(desk.out / GRAPH, load_external_data=False)
    for entry in model.metadata_props:
        if entry.key == f"slimgpt.{key}":
            entry.value = value
    (desk.out / GRAPH).write_bytes(model.SerializeToString())
    manifest = json.loads((desk.out / "slimgpt.json").read_text())
    manifest["files"][GRAPH] = file_sha256(desk.out / GRAPH)
    (desk.out / "slimgpt.json").write_text(json.dumps(manifest))
    ended = desk.run(["verify", str(desk.out), "--quick", "--json", "--quiet"])
    assert ended.code == INTEGRITY
    found = {x["check"]: x for x in json.loads(ended.stdout)["checks"]}
    assert found["files"]["status"] == "passed"
    assert "tells of another export" in found["weights"]["detail"]


def test_ids_that_the_model_does_not_have_end_no_text(desk: Desk) -> None:
    (desk.model / "generation_config.json").unlink()
    desk.edit_config(eos_token_id=[99999, 2], pad_token_id=-1)
    assert desk.run(command(desk, "--quiet")).code == 0
    told = json.loads((desk.out / "genai_config.json").read_text())["model"]
    assert (told["eos_token_id"], told["pad_token_id"]) == (2, 2)


def test_zeros_of_a_stock_layout_are_still_told_of(desk: Desk) -> None:
    assert desk.run(desk.prune("--quiet")).code == 0
    stock, desk.model = desk.root / "stock", desk.root / "stock"
    pad = ["export", "stock", str(desk.out), str(stock), "--pad", "--quiet"]
    assert desk.run(pad).code == 0
    desk.out = desk.root / "onnx"
    assert desk.run(command(desk, "--quiet")).code == 0
    recipe = json.loads((desk.out / "slimgpt.json").read_text())["recipe"]
    assert (recipe["export"]["format"], recipe["export"]["padded"]) == ("onnx", True)


def test_people_are_told_what_stays_at_higher_precision(desk: Desk) -> None:
    shown = desk.run(command(desk, "--precision", "int8", "--keep", "head")).stdout
    assert "at higher precision: head (not quantised)" in " ".join(shown.split())


def test_the_graph_tells_its_source_and_widths(desk: Desk) -> None:
    assert desk.run(command(desk, "--quiet")).code == 0
    model = onnx.load(desk.out / GRAPH, load_external_data=False)
    told = {entry.key: entry.value for entry in model.metadata_props}
    manifest = json.loads((desk.out / "slimgpt.json").read_text())
    assert told["slimgpt.source"] == manifest["recipe"]["export"]["model_digest"]
    assert json.loads(told["slimgpt.shape"]) == manifest["shape"]


def test_text_of_the_user_is_what_is_measured_on(desk: Desk) -> None:
    text = desk.root / "own.txt"
    text.write_text("the old man and the sea\n" * 60)
    ended = desk.run(command(desk, "--text", text, "--json", "--quiet"))
    assert json.loads(ended.stdout)["parity"]["text"] == "own.txt"


def test_a_model_without_a_tokenizer_is_checked_on_random_tokens(desk: Desk) -> None:
    (desk.model / "tokenizer.json").unlink()
    ended = desk.run(command(desk, "--json", "--quiet"))
    assert json.loads(ended.stdout)["parity"]["text"] == "random tokens"


# -- what it refuses ----------------------------------------------------------------------------


REFUSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "a part that is none": (("--precision", "int4", "--keep", "tail"), ("--keep", "first, last")),
    "blocks of whole weights": (("--block-size", "64"), ("--block-size", "int8 and int4")),
    "parts of whole weights": (("--precision", "fp16", "--keep", "head"), ("--keep", "fp16")),
    "portable and quantised": (("--portable", "--precision", "int8"), ("--portable", "int8")),
    "no device": (("--device", "tpu"), ("--device tpu", "cuda:0")),
    "float32 on a GPU": (("--device", "cuda"), ("--precision fp32", "give --precision fp16")),
    "float32 beside int4 on a GPU": (
        ("--device", "cuda", "--precision", "int4"),
        ("--activations float32", "give --activations float16"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_make_no_sense(name: str, desk: Desk) -> None:
    options, says = REFUSED[name]
    desk.refuses(command(desk, *options), USAGE, *says)


def test_an_activation_that_the_builder_does_not_know(desk: Desk) -> None:
    desk.edit_config(hidden_act="gelu")
    desk.refuses(command(desk), USAGE, "hidden_act gelu", "--portable")


def test_heads_of_which_rope_turns_a_part(desk: Desk) -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    desk.edit_config(rope_parameters=rope)
    desk.refuses(command(desk), USAGE, "partial_rotary_factor 0.5", "--portable")


def test_swish_is_silu(desk: Desk) -> None:
    desk.edit_config(hidden_act="swish")
    assert desk.run(command(desk, "--quiet")).code == 0


def test_another_architecture_is_sent_to_the_portable_route(desk: Desk) -> None:
    desk.edit_config(model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"])
    desk.refuses(command(desk), USAGE, "--portable")


@pytest.mark.parametrize(("context", "says"), [(1, "context of 1 token"), (2**22 + 1, "4194304")])
def test_a_context_that_no_graph_can_have(context: int, says: str, desk: Desk) -> None:
    desk.edit_config(max_position_embeddings=context)
    desk.refuses(command(desk), USAGE, says)


@pytest.mark.parametrize(
    "options",
    [
        ("--precision", "fp16"),
        ("--precision", "fp16", "--portable"),
        ("--precision", "int8", "--activations", "float16", "--keep", "none"),
    ],
)
def test_weights_beyond_float16_even_where_no_text_meets_them(
    options: tuple[str, ...], desk: Desk
) -> None:
    table = "model.embed_tokens.weight"
    desk.edit_config(tie_word_embeddings=False)
    desk.edit_weights(lambda w: w.update({"lm_head.weight": w[table].clone()}))
    desk.edit_weights(lambda w: w[table][4090].fill_(3e7))
    says = ("float16", table, "3e+07", "float32" if "int8" in options else "fp32")
    desk.refuses(command(desk, *options), USAGE, *says)


def test_a_file_that_can_t_be_written(desk: Desk) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        ended = desk.run(command(desk, "--quiet"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ended.code == ENVIRONMENT
    [line] = ended.stderr.splitlines()
    assert "model.onnx.data can't be written" in line
    assert "free some disk" in line
    assert not desk.out.exists()
    assert not desk.out.with_name("out.partial").exists()


def test_a_disk_that_is_too_small(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(desk.root)._replace(free=2**20)
    monkeypatch.setattr("slimgpt.resources.shutil.disk_usage", lambda _: free)
    desk.refuses(command(desk), ENVIRONMENT, "the ONNX export needs", "another disk")


def test_a_tokenizer_that_finds_nothing(desk: Desk) -> None:
    path = desk.model / "tokenizer.json"
    nothing = {"type": "Replace", "pattern": {"Regex": r"[\s\S]"}, "content": ""}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": nothing}))
    desk.refuses(command(desk), USAGE, "tokenizer", "finds no tokens")


def test_a_width_that_no_block_divides(desk: Desk) -> None:
    desk.edit_config(hidden_size=72, num_attention_heads=9, num_key_value_heads=9, head_dim=8)
    sizes = (9 * 8, 72)
    vocabulary = json.loads((desk.model / "config.json").read_text())["vocab_size"]

    def resized(weights: dict[str, torch.Tensor]) -> None:
        for name, tensor in list(weights.items()):
            if "norm" in name:
                weights[name] = torch.ones(72)
            elif "embed" in name or "lm_head" in name:
                weights[name] = torch.randn(vocabulary, 72)
            elif "self_attn" in name:
                weights[name] = torch.randn(*sizes)
            else:
                rows = (72, tensor.shape[1]) if "down" in name else (tensor.shape[0], 72)
                weights[name] = torch.randn(*rows)

    desk.edit_weights(resized)
    desk.refuses(command(desk, "--precision", "int4"), USAGE, "hidden size 72", "16, 32", "fp16")


def test_an_ffn_that_no_block_divides_gets_neurons_of_zeros(desk: Desk) -> None:
    desk.edit_config(intermediate_size=300)

    def narrowed(weights: dict[str, torch.Tensor]) -> None:
        for name in [n for n in weights if "mlp" in n]:
            axis = 1 if "down" in name else 0
            weights[name] = weights[name].narrow(axis, 0, 300).contiguous()

    desk.edit_weights(narrowed)
    ended = desk.run(command(desk, "--precision", "int4", "--keep", "none", "--json", "--quiet"))
    assert json.loads(ended.stdout)["added_neurons"] == 2 * 20


def test_a_quantised_model(desk: Desk) -> None:
    desk.edit_config(quantization_config={"quant_method": "compressed-tensors"})
    desk.refuses(command(desk), USAGE, "is quantised", "made from")


def test_an_export_is_not_exported_again(desk: Desk, tmp_path: Path) -> None:
    assert desk.run(command(desk, "--quiet")).code == 0
    again = ["export", "onnx", str(desk.out), str(desk.root / "again")]
    desk.refuses(again, USAGE, "is an ONNX export", "made from")
    desk.refuses(["prune", str(desk.out), str(desk.root / "again"), "--ratio", "0.2"], USAGE)


def test_an_out_that_exists(desk: Desk) -> None:
    desk.out.mkdir()
    desk.refuses(command(desk), USAGE, "exists")


def test_text_that_is_too_short(desk: Desk) -> None:
    text = desk.root / "short.txt"
    text.write_text("a word")
    desk.refuses(command(desk, "--text", text), USAGE, "--text", "are needed")


def test_a_gpu_that_is_not_there(desk: Desk) -> None:
    ended = desk.run(command(desk, "--precision", "fp16", "--device", "cuda", "--quiet"))
    assert ended.code == ENVIRONMENT
    assert "CUDA" in ended.stderr
    assert not desk.out.exists()
    assert not desk.out.with_name("out.partial").exists()


def test_weights_that_are_no_numbers(desk: Desk) -> None:
    desk.edit_weights(lambda w: w["model.norm.weight"].fill_(float("nan")))
    desk.refuses(command(desk), INTEGRITY, "NaN")


def test_two_runtimes_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("onnxruntime", "onnxruntime-gpu")
    monkeypatch.setattr(installed, "_is_installed", lambda name: name in both)
    desk.refuses(command(desk), ENVIRONMENT, "onnxruntime-gpu", "pip uninstall")


# -- a graph that is another function -----------------------------------------------------------


def test_a_graph_that_is_another_function_is_removed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(geometry: Any, options: GraphOptions, weights: Any) -> Any:
        return build_graph(geometry, replace(options, epsilon=0.3), weights)

    monkeypatch.setattr("slimgpt_export.onnx.build.build_graph", wrong)
    ended = desk.run(command(desk, "--quiet"))
    assert ended.code == GATE
    [line] = ended.stderr.splitlines()
    assert "another function" in line
    assert "prefill" in line
    assert not desk.out.exists()
    assert not desk.out.with_name("out.partial").exists()


def test_logits_that_are_no_numbers_are_no_small_difference(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*arguments: Any) -> Any:
        return logits_of_texts(*arguments) * np.float32("nan")

    monkeypatch.setattr("slimgpt_export.onnx.graph_logits.logits_of_texts", damaged)
    assert desk.run(command(desk, "--quiet")).code == GATE
    assert not desk.out.exists()


def test_activations_beyond_float16_are_told(desk: Desk) -> None:
    desk.edit_weights(lambda w: [w[n].mul_(3000) for n in w if "down_proj" in n])
    ended = desk.run(command(desk, "--precision", "fp16", "--quiet"))
    assert ended.code == GATE
    [line] = ended.stderr.splitlines()
    assert "no numbers" in line
    assert "give --precision fp32, or on GPUs bf16" in line
    assert not desk.out.exists()


# -- a run that was killed ----------------------------------------------------------------------


def killed(desk: Desk) -> Path:
    """What a killed run leaves beside OUT."""
    work = desk.out.with_name("out.partial")
    (work / "publish").mkdir(parents=True)
    (work / "slimgpt.lock").touch()
    (work / "run.json").write_text("{}")
    (work / "publish" / DATA).write_bytes(b"half")
    return work


def test_a_run_that_was_killed_while_it_wrote_is_done_again(desk: Desk) -> None:
    work = killed(desk)
    assert desk.run(command(desk, "--quiet")).code == 0
    assert not work.exists()
    assert desk.run(["verify", str(desk.out), "--quiet"]).code == 0


def test_a_run_that_was_killed_after_publishing_is_ended_by_the_same_command_alone(
    desk: Desk,
) -> None:
    assert desk.run(command(desk, "--quiet")).code == 0
    work, before = killed(desk), (desk.out / "slimgpt.json").stat().st_mtime_ns
    ended = desk.run(command(desk, "--precision", "fp16", "--quiet"))
    assert ended.code == USAGE
    assert "exists" in ended.stderr
    assert desk.run(command(desk, "--quiet")).code == 0
    assert (desk.out / "slimgpt.json").stat().st_mtime_ns == before
    assert not work.exists()


# -- the pieces ---------------------------------------------------------------------------------


def test_a_checkpoint_is_no_export(desk: Desk) -> None:
    assert not is_onnx(desk.model)


def test_weights_of_other_tools_are_not_taken_along(tmp_path: Path) -> None:
    names = ("onnx/model.onnx_data", "tf_model.h5", "rust_model.ot", "64.tflite", "vocab.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in foreign._sidecars(tmp_path)] == ["vocab.txt"]


def test_a_short_text_of_ours_is_repeated(desk: Desk) -> None:
    sample = read_sample(desk.model, 4096, None, 0, 10**6)
    assert len(sample.ids) >= 10**6
