"""What ``export quantized`` refuses before a weight is read, and quantised input elsewhere."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimgpt.checkpoint.quantized import is_quantized, read_quantized
from slimgpt.checkpoint.reader import read_config
from slimgpt.errors import EnvironmentProblem, IntegrityError
from slimgpt.evaluate.perplexity import Quality
from slimgpt.evaluate.windows import EvaluationText
from slimgpt_export import quantize_llmcompressor, quantize_quality
from slimgpt_export.quantize_llmcompressor import require_device, require_llmcompressor
from slimgpt_export.quantize_quality import describe_quality, require_room
from slimgpt_export.quantize_windows import Data
from tests.command_line import ENVIRONMENT, INTEGRITY, USAGE, WEIGHTS, Desk

CT = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32},
            "input_activations": None,
        }
    },
}


def command(desk: Desk, scheme: str, *more: str) -> list[str]:
    return ["export", "quantized", str(desk.model), str(desk.out), "--scheme", scheme, *more]


@pytest.mark.parametrize(
    ("scheme", "more", "says"),
    [
        ("w4a16", (), "layer 0 down_proj reads 352 values, no multiple of --group-size 128"),
        ("w4a16", (), "give --group-size 32, or --scheme fp8 or w8a8"),
        ("w4a16", ("--group-size", "48"), "--group-size 48: give 32, 64, 128"),
        ("fp8", ("--group-size", "64"), "--group-size goes with --scheme w4a16"),
        ("fp8", ("--tensor-parallel", "3"), "--tensor-parallel 3 does not divide layer 0"),
        ("fp8", ("--tensor-parallel", "0"), "--tensor-parallel 0: give a positive"),
        ("fp8", ("--max-kl", "-1"), "--max-kl -1: give a number of at least 0"),
    ],
)
def test_refused_before_a_weight_is_read(desk: Desk, scheme, more, says):
    (desk.model / WEIGHTS).unlink()
    desk.refuses(command(desk, scheme, *more), USAGE, says)


def test_a_directory_that_exists_is_refused(desk: Desk):
    desk.out.mkdir()
    desk.refuses(command(desk, "fp8"), USAGE, "exists")


def test_an_out_inside_the_model_is_refused(desk: Desk):
    arguments = ["export", "quantized", str(desk.model), str(desk.model / "in"), "--scheme", "fp8"]
    desk.refuses(arguments, USAGE, "lies inside MODEL")


def test_a_missing_extra_is_named(desk: Desk, monkeypatch):
    monkeypatch.setattr(quantize_llmcompressor, "find_spec", lambda _: None)
    desk.refuses(command(desk, "fp8"), ENVIRONMENT, "pip install 'slimgpt[quantize]'")


def test_an_installed_extra_is_found(monkeypatch):
    monkeypatch.setattr(quantize_llmcompressor, "find_spec", lambda _: object())
    require_llmcompressor()


@pytest.mark.parametrize(
    ("name", "kind", "index", "sets"),
    [("cuda:1", "cuda", 1, "'1'"), ("cpu", "cpu", None, "''")],
)
def test_another_device_than_the_first_gpu_is_refused(name, kind, index, sets):
    with pytest.raises(EnvironmentProblem, match=rf"--device {name}: .*DEVICES={sets} and leave"):
        require_device(name, kind, index, accelerator=True)


@pytest.mark.parametrize(("kind", "accelerator"), [("cpu", False), ("cuda", True)])
def test_the_device_that_llm_compressor_takes_is_accepted(kind, accelerator):
    require_device(kind, kind, None, accelerator=accelerator)


@pytest.mark.parametrize(
    ("dtype", "copies", "width"),
    [("auto", 2, 4), ("float32", 2, 4), ("bfloat16", 2, 2), ("float16", 2, 2)],
)
def test_a_model_beyond_the_memory_is_refused(desk: Desk, monkeypatch, dtype, copies, width):
    """Both models are in memory while they are measured."""
    meta = read_config(desk.model)
    needed = copies * meta.shape.weight_bytes(width)
    monkeypatch.setattr(quantize_quality, "available_memory_bytes", lambda: needed)
    require_room(meta, "cpu", dtype)
    monkeypatch.setattr(quantize_quality, "available_memory_bytes", lambda: needed - 1)
    with pytest.raises(EnvironmentProblem, match=r"quantising and measuring .* --dtype bfloat16"):
        require_room(meta, "cpu", dtype)


def test_memory_is_looked_at_before_anything_is_read(desk: Desk, monkeypatch):
    monkeypatch.setattr(quantize_llmcompressor, "find_spec", lambda _: object())
    monkeypatch.setattr(quantize_quality, "available_memory_bytes", lambda: 1000)
    desk.refuses(command(desk, "fp8", "--device", "cpu"), ENVIRONMENT, "1000 B of memory are free")


def test_an_infinite_perplexity_is_null_in_json(desk: Desk, monkeypatch):
    text = EvaluationText(torch.zeros(1, 2), "text", "")
    data = Data(None, text, None, as_pruned=False)
    quantise_by_hand(desk)
    entry = describe_quality(Quality(800.0, 1.0, 2.0, text), data, desk.model, 1)
    assert (entry["perplexity"], entry["baseline_perplexity"]) == (None, 7.3891)
    json.dumps(entry, allow_nan=False)


def test_the_help_names_what_the_messages_name(desk: Desk):
    assert "export quantized [OPTIONS] MODEL OUT" in desk.run(["export", "quantized", "-h"]).stdout


# -- quantised input -------------------------------------------------------------------------------


def quantise_by_hand(desk: Desk) -> None:
    """The layout of packed weights, without sense in the numbers."""
    weights = load_file(desk.model / WEIGHTS)
    for name in [name for name in weights if "_proj" in name]:
        weight = weights.pop(name)
        weights[f"{name}_packed"] = torch.zeros(len(weight), weight.shape[1] // 8).int()
        weights[f"{name}_scale"] = torch.zeros(len(weight), weight.shape[1] // 32).bfloat16()
    save_file(weights, desk.model / WEIGHTS, {"format": "pt"})
    desk.edit_config(quantization_config=CT)


def test_inspect_describes_packed_weights(desk: Desk):
    quantise_by_hand(desk)
    ended = desk.run(["inspect", str(desk.model), "--json"])
    assert ended.code == 0, ended.stderr
    document = json.loads(ended.stdout)
    stored = sum(t.nbytes for t in load_file(desk.model / WEIGHTS).values())
    assert document["quantization"] == {
        "method": "compressed-tensors",
        "format": "pack-quantized",
        "weights": "int4 in groups of 32",
        "activations": None,
        "weight_bytes": stored,
    }
    assert document["totals"]["weight_bytes"] == stored
    shown = desk.run(["inspect", str(desk.model)]).stdout
    assert "weights int4 in groups of 32, activations not quantised" in shown


def test_inspect_tells_nothing_of_quantisation_where_there_is_none(desk: Desk):
    assert not is_quantized(desk.model)
    assert (
        json.loads(desk.run(["inspect", str(desk.model), "--json"]).stdout)["quantization"] is None
    )


def test_quantised_weights_are_not_quantised_again(desk: Desk):
    quantise_by_hand(desk)
    desk.refuses(command(desk, "fp8"), USAGE, "is quantised: give the MODEL that it was")


def test_quantised_weights_are_not_pruned(desk: Desk):
    quantise_by_hand(desk)
    prune = ["prune", str(desk.model), str(desk.out), "--ratio", "0.2"]
    desk.refuses(prune, USAGE, "prune first, quantise after")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda w: w.pop("model.norm.weight"), "lacks the weight model.norm.weight"),
        (
            lambda w: w.pop("model.layers.1.mlp.up_proj.weight_packed"),
            "lacks the weight model.layers.1.mlp.up_proj.weight",
        ),
        (
            lambda w: w.pop("model.layers.1.mlp.up_proj.weight_scale"),
            "lacks model.layers.1.mlp.up_proj.weight_scale",
        ),
        (
            lambda w: w.update({"model.norm.weight": w["model.norm.weight"].to(torch.int8)}),
            "lacks model.norm.weight_scale",
        ),
        (
            lambda w: w.update({"model.norm.weight": torch.zeros(3)}),
            "model.norm.weight is [3], but config.json makes it [128]",
        ),
        (lambda w: w.update({"x": torch.zeros(2, dtype=torch.complex64)}), "C64"),
    ],
)
def test_damaged_packed_weights_are_refused(desk: Desk, spoil, says):
    quantise_by_hand(desk)
    desk.edit_weights(spoil)
    desk.refuses(["inspect", str(desk.model)], INTEGRITY, says)


def test_other_methods_are_named_and_not_checked(desk: Desk):
    desk.edit_config(quantization_config={"quant_method": "gptq", "bits": 4})
    described = read_quantized(desk.model)
    assert (described.method, described.weights) == ("gptq", None)


@pytest.mark.parametrize("settings", [{"bits": 4}, ["gptq"], {"quant_method": 4}])
def test_a_config_without_a_method_is_refused(desk: Desk, settings):
    desk.edit_config(quantization_config=settings)
    with pytest.raises(IntegrityError, match="quantization_config names no quant_method"):
        read_quantized(desk.model)


def test_a_shard_is_named_where_it_is(desk: Desk):
    quantise_by_hand(desk)
    desk.shard()
    assert [path.name for path in read_quantized(desk.model).files] == sorted(
        path.name for path in Path(desk.model).glob("*.safetensors")
    )
