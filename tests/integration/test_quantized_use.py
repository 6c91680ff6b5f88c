"""What reads a quantised checkpoint: verify, evaluate, generate, the bill; and what refuses it."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt import unpacking
from slimgpt.cli import run
from slimgpt.demo import CALIBRATION, EVALUATION
from slimgpt.loading import load_model
from slimgpt.release.manifest import read_manifest
from tests.command_line import ENVIRONMENT, INTEGRITY, SHORT, USAGE, Desk
from tests.releases import by_status, verify
from tests.tiny_models import load, logits, random_ids

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llmcompressor") is None, reason="needs the extra quantize"
)

SCHEMES = "fp8", "w8a8", "w4a16"
TEXT = ("--calibration", str(CALIBRATION), *SHORT)


@pytest.fixture(scope="module")
def made(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model and what each scheme makes of it; not to be changed."""
    root = tmp_path_factory.mktemp("quantised")
    pruned = str(root / "pruned")
    aligned = ("--ratio", "0.25", "--align", "32")
    assert run(["prune", str(small), pruned, *aligned, *TEXT, "--quiet"]) == 0
    for scheme in SCHEMES:
        group = ("--group-size", "32") if scheme == "w4a16" else ()
        options = ("--scheme", scheme, *group, *TEXT, "--quiet")
        assert run(["export", "quantized", pruned, str(root / scheme), *options]) == 0
    return root


@pytest.fixture
def bench(desk: Desk, made: Path) -> Desk:
    """The FP8 model at ``out``."""
    shutil.copytree(made / "fp8", desk.out)
    return desk


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_verified(desk: Desk, made: Path, scheme: str) -> None:
    shutil.copytree(made / scheme, desk.out)
    ended, document = verify(desk, "--source", desk.model)
    assert (ended.code, document["verified"]) == (0, True)
    assert by_status(document, "passed").keys() == {
        *("manifest", "files", "weights", "shape", "parameters", "source", "card")
    }
    assert "beside the model" in by_status(document, "not checked")["quantization"]


def test_a_lost_weight_and_another_packing_are_found(bench: Desk) -> None:
    config = bench.out / "config.json"
    document = json.loads(config.read_text())
    for changes, says in (
        ({"num_hidden_layers": 3}, "lacks the weight"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
    ):
        config.write_text(json.dumps(document | changes))
        ended, found = verify(bench, "--quick")
        assert ended.code == INTEGRITY
        assert says in by_status(found, "failed")["weights"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_loaded_as_transformers_would_and_can_be_moved(made: Path, scheme: str) -> None:
    from slimgpt_export.quantize_llmcompressor import quiet_libraries

    model, meta = load_model(made / scheme, device="cpu")
    assert meta.shape.to_manifest() == (read_manifest(made / scheme) or {})["shape"]
    ids = random_ids(2, 24, seed=5)
    with quiet_libraries():
        assert logits(model, ids).equal(logits(load(made / scheme, torch.float32), ids))
    assert model.to("meta").device == torch.device("meta"), "nothing ties a weight to the CPU"


def test_its_divergence_is_the_one_that_the_export_measured(desk: Desk, made: Path) -> None:
    text = desk.root / "text.txt"
    text.write_text("It was a bright cold day in April, and the clocks were striking.\n" * 12)
    options = ("--scheme", "w8a8", *TEXT, "--text", str(text), "--window", "32", "--json")
    arguments = ["export", "quantized", str(made / "pruned"), str(desk.out), *options]
    claimed = json.loads(desk.run(arguments).stdout)
    pruned = ("--baseline", str(made / "pruned"), "--text", str(text), "--window", "32")
    ended = desk.run(["evaluate", str(desk.out), *pruned, "--json"])
    assert ended.code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["kl"]["value"] == pytest.approx(claimed["kl"], rel=1e-3)
    assert found["perplexity"]["value"] == pytest.approx(claimed["perplexity"], rel=1e-3)


@pytest.mark.slow
def test_it_completes_a_prompt_and_shows_no_bars(bench: Desk) -> None:
    ended = bench.execute(["generate", str(bench.out), "Once upon a", "--max-new-tokens", "4"])
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith("Once upon a")
    assert "it/s" not in ended.stderr


def test_its_bill_says_that_it_is_quantised(bench: Desk) -> None:
    bill = bench.root / "bill.json"
    assert bench.run(["export", "bom", str(bench.out), str(bill)]).code == 0
    document = json.loads(bill.read_text())
    assert "its weights quantised" in document["metadata"]["component"]["description"]


def test_its_card_names_the_relation_of_the_hub(bench: Desk) -> None:
    assert "base_model_relation: quantized" in (bench.out / "README.md").read_text()


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        (("prune", "--ratio", "0.2", *TEXT), "prune first, quantise after"),
        (("recover", "--data", str(CALIBRATION)), "prune first, quantise after"),
        (("export stock",), "is quantised: give the MODEL that it was made from"),
    ],
)
def test_it_is_neither_pruned_nor_recovered_nor_padded(bench: Desk, verb: Any, says: str) -> None:
    name, *options = verb
    arguments = [*name.split(), str(bench.out), str(bench.root / "new"), *options, "-q"]
    bench.refuses(arguments, USAGE, says)


def test_what_another_library_packed_is_not_run(bench: Desk) -> None:
    config = json.loads((bench.out / "config.json").read_text())
    packed = config | {"quantization_config": {"quant_method": "awq"}}
    (bench.out / "config.json").write_text(json.dumps(packed))
    bench.refuses(["generate", str(bench.out), "x"], USAGE, "is quantised by awq: slimgpt runs")


def test_a_missing_package_is_named(bench: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "find_spec", lambda _: None)
    arguments = ["evaluate", str(bench.out), "--text", str(EVALUATION), "-q"]
    says = "running a quantised model needs an optional package", "slimgpt[quantize]"
    bench.refuses(arguments, ENVIRONMENT, *says)
