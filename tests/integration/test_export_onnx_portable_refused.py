"""A model that has no portable graph is refused in one line, and nothing is written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import EnvironmentProblem, IntegrityError, SlimGPTError, UsageError
from slimgpt_export.onnx.nodes import CONTRIB, Nodes
from slimgpt_export.onnx.portable import write_portable
from slimgpt_export.onnx.portable_graph import require_standard
from tests.portable_exports import Portables, chosen
from tests.tiny_models import Tiny

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def portables(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Portables:
    return Portables(tmp_path_factory.mktemp("portable"), tiny)


def edited(**changes: Any) -> Spoil:
    """Changes config.json."""

    def spoil(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def reweighted(edit: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    """Changes the weights."""

    def spoil(model: Path) -> None:
        weights = load_file(model / "model.safetensors")
        edit(weights)
        save_file(weights, model / "model.safetensors", {"format": "pt"})

    return spoil


def refused(model: Path, folder: Path, kind: type[SlimGPTError], *says: str, **how: Any) -> None:
    """The export ends in one line that says this, and writes nothing."""
    with pytest.raises(kind) as caught:
        write_portable(model, how.get("precision", chosen("fp32")), folder)
    message = str(caught.value)
    assert "\n" not in message
    for words in says:
        assert words in message
    assert not list(folder.iterdir())


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_weights_are_refused(tmp_path: Path, precision: Any) -> None:
    says = f"--precision {precision}", "give one of these, or leave out --portable"
    refused(tmp_path, tmp_path, UsageError, *says, precision=chosen(precision))


def test_a_missing_exporter_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    says = "slimgpt export onnx --portable needs", "slimgpt[onnx]"
    refused(tmp_path, tmp_path, EnvironmentProblem, *says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mamba", "MambaForCausalLM remembers more of a text than keys and values (no cache)"),
        ("gpt2", "GPT2LMHeadModel does not run on a text alone: IndexError: "),
        ("mpt", "torch can't export MptForCausalLM: "),
    ],
)
def test_what_has_no_such_graph_is_refused_with_the_reason(
    portables: Portables, tmp_path: Path, name: str, says: str
) -> None:
    refused(portables.source(name), tmp_path, UsageError, "--portable: ", says)


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (edited(model_type="unheard_of"), UsageError, "without running code of its own"),
        (edited(model_type="t5"), UsageError, "is a t5 model, and exported are those that"),
        (edited(model_type="gemma3"), UsageError, "is a gemma3 model, and exported are those"),
        (edited(model_type="vit"), UsageError, "is no causal LM that transformers loads"),
        (edited(quantization_config={"quant_method": "awq"}), UsageError, "is quantised: give"),
        (reweighted(lambda x: x.popitem()), IntegrityError, "(1 such weights): download it again"),
        (reweighted(lambda x: next(iter(x.values())).fill_(torch.nan)), IntegrityError, "NaN"),
        (lambda x: (x / "model.safetensors").unlink(), IntegrityError, "download it again"),
        (lambda x: (x / "config.json").unlink(), IntegrityError, "config.json"),
    ],
    ids=["unknown", "two-parts", "images", "no-lm", "quantised", "missing", "nan", "none", "empty"],
)
def test_a_foreign_model_that_is_not_whole_is_refused(
    portables: Portables, tmp_path: Path, spoil: Spoil, kind: type[SlimGPTError], says: str
) -> None:
    model, folder = tmp_path / "model", tmp_path / "graph"
    shutil.copytree(portables.source("gpt_neox"), model)
    folder.mkdir()
    spoil(model)
    refused(model, folder, kind, says)


def test_a_damaged_model_of_ours_is_refused_as_everywhere(
    portables: Portables, tmp_path: Path
) -> None:
    model, folder = tmp_path / "model", tmp_path / "graph"
    shutil.copytree(portables.source("tied"), model)
    folder.mkdir()
    reweighted(lambda x: x.pop("model.norm.weight"))(model)
    with pytest.raises(IntegrityError) as expected:
        Checkpoint(model)
    refused(model, folder, IntegrityError, str(expected.value))


def test_an_operator_that_is_not_standard_is_refused() -> None:
    nodes = Nodes("graph")
    nodes.add("Gelu", [nodes.input("x", ir.DataType.FLOAT, [1])], "y", domain=CONTRIB)
    with pytest.raises(UsageError, match=r"needed com\.microsoft::Gelu, which is no standard"):
        require_standard(nodes.model())
