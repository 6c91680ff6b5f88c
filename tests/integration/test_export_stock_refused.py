"""``slimgpt export stock`` as a user sees it: what it says, refuses, and leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import slimgpt_export.layout
import slimgpt_export.parity
import slimgpt_export.stock
from slimgpt.checkpoint.reader import Checkpoint, read_config
from slimgpt.commands.export import FORMATS
from slimgpt.shape import LayerShape, ModelShape
from slimgpt.workspace import Workspace
from slimgpt_export.padding import pad_layer
from tests.command_line import ENVIRONMENT, INTEGRITY, USAGE, WEIGHTS, Desk
from tests.recovering import quick_collections
from tests.stock_sources import write_source
from tests.tiny_models import Tiny

MIXED = ((6, 6, 352), (4, 2, 100))


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.fixture
def mixed(desk: Desk) -> Path:
    """A model whose two layers differ, beside the desk's own."""
    path = desk.root / "mixed"
    write_source(desk.model, MIXED, path)
    return path


def command(desk: Desk, *arguments: object) -> list[str]:
    return ["export", "stock", *(str(x) for x in (*arguments, "--device", "cpu"))]


def files(directory: Path) -> dict[str, bytes]:
    found = (p for p in sorted(directory.rglob("*")) if p.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in found}


# -- what it says -------------------------------------------------------------------------------


def test_the_cost_of_padding_is_told(desk, mixed):
    ended = desk.run(command(desk, mixed, desk.out, "--pad", "--json"))
    assert ended.code == 0, ended.stderr
    document = json.loads(ended.stdout)
    shape, padded = Checkpoint(mixed).shape, Checkpoint(desk.out).shape
    assert document["architecture"] == "MistralForCausalLM"
    assert document["padded"] is True
    assert document["stock_before"] is False
    assert document["dense"] is None, "no manifest tells of a dense model"
    for key, of in (("source", shape), ("result", padded)):
        assert document[key]["decoder_parameters"] == of.decoder_parameters
        assert document[key]["weight_bytes"] == of.weight_bytes(2)
        assert document[key]["kv_bytes_per_token"] == of.kv_bytes_per_token(2)
    assert document["parity"]["tokens"] == 128
    assert document["parity"]["relative"] < 1e-4


def test_the_dense_original_is_told_where_a_manifest_knows_it(desk):
    pruned = desk.root / "pruned"
    assert desk.run(desk.prune("--uniform", "--device", "cpu")).code == 0
    desk.out.rename(pruned)
    ended = desk.run(command(desk, pruned, desk.out, "--json"))
    dense, document = Checkpoint(desk.model).shape, json.loads(ended.stdout)
    assert document["dense"] == {
        "parameters": dense.parameters,
        "decoder_parameters": dense.decoder_parameters,
        "weight_bytes": dense.weight_bytes(2),
    }
    before, after = (json.loads((x / "slimgpt.json").read_text()) for x in (pruned, desk.out))
    assert after["source"] == before["source"]
    assert after["recipe"].items() >= before["recipe"].items()
    assert after["recipe"]["export"]["format"] == "stock"
    assert after["quality"]["layers"] == before["quality"]["layers"]
    assert after["parameters"]["decoder_before"] == dense.decoder_parameters


def test_a_stock_model_is_copied_and_that_is_said(desk):
    desk.drop_config("head_dim", "mlp_bias")
    desk.edit_config(transformers_version="4.30.0", of_its_own={"a": 1})
    ended = desk.run(command(desk, desk.model, desk.out))
    assert ended.code == 0, ended.stderr
    assert "a copy, as MODEL is a stock LlamaForCausalLM already" in " ".join(ended.stdout.split())
    before, after = files(desk.model), files(desk.out)
    for name in ("config.json", "tokenizer.json"):
        assert json.loads(after[name]) == json.loads(before[name])
    assert before["README.md"] == after["SOURCE_README.md"]
    weights = [load_file(x / WEIGHTS) for x in (desk.model, desk.out)]
    assert weights[0].keys() == weights[1].keys()
    assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("verb", [["inspect"], ["verify", "--quick"]], ids=" ".join)
def test_other_verbs_take_the_result(desk, mixed, verb):
    assert desk.run(command(desk, mixed, desk.out, "--pad")).code == 0
    ended = desk.run([verb[0], str(desk.out), *verb[1:]])
    assert ended.code == 0, ended.stderr


def test_the_card_tells_of_the_padding(desk, mixed):
    assert desk.run(command(desk, mixed, desk.out, "--pad")).code == 0
    card = (desk.out / "README.md").read_text()
    count = Checkpoint(mixed).shape.decoder_parameters
    assert "filled up with zeros to the same widths: it is the function of a model of" in card
    assert f"{count:,} of them in decoder layers" in card


def test_a_tokenizer_is_read_the_same_under_another_class(desk):
    from slimgpt.tokenizer import load_tokenizer

    mixed = desk.root / "mixed"
    write_source(desk.model, MIXED, mixed)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (mixed / name).write_bytes((desk.model / name).read_bytes())
    assert desk.run(command(desk, mixed, desk.out, "--pad")).code == 0
    assert read_config(desk.out).config["model_type"] == "mistral"
    words = "Once upon a time,  there was\nan old king."
    ids = [load_tokenizer(x)(words)["input_ids"] for x in (desk.model, mixed, desk.out)]
    assert ids[0] == ids[1] == ids[2]


def test_formats_whose_module_is_missing_are_left_out(desk, monkeypatch):
    monkeypatch.setitem(FORMATS, "gone", "slimgpt.commands.gone:gone")
    ended = desk.run(["export", "--help"])
    assert ended.code == 0
    assert "stock" in ended.stdout
    assert "bom" in ended.stdout
    assert "gone" not in ended.stdout
    desk.refuses(["export", "gone"], USAGE, "No such command 'gone'")


# -- what it refuses ----------------------------------------------------------------------------


def test_layers_that_differ_are_refused_with_the_cost_and_the_ways_out(desk, mixed):
    before, after = Checkpoint(mixed).shape, LayerShape(6, 6, 352)
    padded = before.with_layers((after,) * 2)
    desk.refuses(
        command(desk, mixed, desk.out),
        USAGE,
        "layers of 4 to 6 query heads, 2 to 6 KV heads, 100 to 352 FFN neurons",
        f"give --pad to fill up with zeros (decoder parameters {before.decoder_parameters:,} -> "
        f"{padded.decoder_parameters:,}",
        f"{before.kv_bytes_per_token(2):,} -> {padded.kv_bytes_per_token(2):,} bytes a token",
        "slimgpt's vLLM plugin",
        "slimgpt prune --uniform",
    )


def test_one_width_that_no_class_takes_is_named(desk, tiny: Tiny):
    source = desk.root / "biases"
    write_source(tiny.dense("llama-biases").path, ((6, 6, 50),) * 4, source)
    desk.refuses(
        command(desk, source, desk.out), USAGE, "has 6 query heads in every layer", "give --pad"
    )


def test_no_attention_at_all_is_refused(desk):
    source = desk.root / "bare"
    write_source(desk.model, ((0, 0, 100), (0, 0, 50)), source)
    desk.refuses(command(desk, source, desk.out, "--pad"), USAGE, "no layer", "has attention")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{model}", "{model}"], "exists"),
        (["{model}", "{root}"], "exists"),
        (["{model}", "{model}/stock"], "lies inside MODEL"),
        (["{root}", "{out}"], "has no config.json"),
        (["{root}/absent", "{out}"], "does not exist"),
        (["{model}", "{model}/config.json/out"], "can't be made"),
        (["{model}", "{out}", "--device", "gpu"], "--device gpu"),
    ],
)
def test_wrong_paths_and_options_are_refused(desk, arguments, says):
    desk.refuses(["export", "stock", *desk.fill(arguments)], USAGE, says)


def test_quantised_input_is_refused(desk):
    desk.edit_config(quantization_config={"quant_method": "gptq", "bits": 4})
    says = "is quantised: give the MODEL that it was made from"
    desk.refuses(command(desk, desk.model, desk.out), USAGE, says)


def test_weights_that_are_no_numbers_are_refused(desk):
    desk.edit_weights(lambda weights: weights["model.norm.weight"].fill_(float("nan")))
    desk.refuses(command(desk, desk.model, desk.out), INTEGRITY, "model.norm.weight holds NaN")


def test_a_model_that_needs_code_of_its_own_is_refused(desk, tiny: Tiny):
    source = tiny.dense("baichuan").path
    desk.refuses(command(desk, source, desk.out), USAGE, "convert it first with slimgpt prune")


def test_a_model_beyond_the_memory_is_refused_before_anything_is_written(desk, monkeypatch):
    monkeypatch.setattr(slimgpt_export.parity, "available_memory_bytes", lambda: 1000)
    desk.refuses(
        command(desk, desk.model, desk.out), ENVIRONMENT, "loads the model in float32", "1000 B"
    )


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(desk, monkeypatch):
    monkeypatch.setattr("slimgpt.resources.shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    desk.refuses(
        command(desk, desk.model, desk.out), ENVIRONMENT, "the stock checkpoint needs", "9 B are"
    )


# -- what it leaves behind ----------------------------------------------------------------------


def swapped_heads(
    tensors: Mapping[str, Tensor], source: LayerShape, target: ModelShape, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Pads wrongly: the first two query heads of each layer have changed places."""
    padded = pad_layer(tensors, source, target, dtype)
    heads = padded["self_attn.q_proj.weight"].clone().split(target.head_dim)
    order = [1, 0, *range(2, len(heads))]
    return padded | {"self_attn.q_proj.weight": torch.cat([heads[i] for i in order])}


def test_a_wrong_export_is_removed_and_misses_the_gate(desk, mixed, monkeypatch):
    monkeypatch.setattr(slimgpt_export.stock, "pad_layer", swapped_heads)
    desk.refuses(
        command(desk, mixed, desk.out, "--pad", "--quiet"), 1, "another function", "nothing is"
    )
    monkeypatch.undo()
    assert desk.run(command(desk, mixed, desk.out, "--pad")).code == 0


def test_equal_runs_give_equal_bytes_and_so_does_a_killed_one(desk, mixed, monkeypatch):
    assert desk.run(command(desk, mixed, desk.out, "--pad")).code == 0
    written = []

    def killed(*arguments: Any) -> dict[str, Tensor]:
        written.append(arguments)
        if len(written) == 2:
            raise KeyboardInterrupt
        return pad_layer(*arguments)

    monkeypatch.setattr(slimgpt_export.stock, "pad_layer", killed)
    again = desk.root / "again"
    assert desk.run(command(desk, mixed, again, "--pad")).code == 130
    assert not again.exists()
    assert (desk.root / "again.partial").is_dir()
    assert desk.run(command(desk, mixed, again, "--pad")).code == 0
    assert len(written) == 3, "the first layer was not written again"
    assert files(again) == files(desk.out)
    assert not (desk.root / "again.partial").exists()


def test_work_of_another_recipe_is_not_thrown_away_unasked(desk, mixed, monkeypatch):
    def killed(*_: Any) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    monkeypatch.setattr(slimgpt_export.stock, "pad_layer", killed)
    assert desk.run(command(desk, mixed, desk.out, "--pad")).code == 130
    monkeypatch.undo()
    other = command(desk, mixed, desk.out, "--pad", "--seed", "1")
    desk.refuses(other, USAGE, "recipe.export.seed", "--fresh")
    assert desk.run([*other, "--fresh"]).code == 0


def test_a_run_killed_behind_its_publishing_is_only_cleaned_up(desk, mixed, monkeypatch):
    def killed(_: Workspace) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "remove", killed)
    again = command(desk, mixed, desk.out, "--pad", "--json")
    assert desk.run(again).code == 130
    monkeypatch.undo()
    before = files(desk.out)
    desk.refuses([*again, "--seed", "1"], USAGE, "exists")  # the work beside it is of another run
    ended = desk.run(again)
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout)["parity"] is None, "an earlier run has compared"
    assert files(desk.out) == before
    assert not (desk.root / "out.partial").exists()
    desk.refuses(again, USAGE, "exists")
