"""``slimgpt evaluate`` of ONNX exports: ONNX Runtime's own figures, in the words of all others."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from slimgpt.errors import UsageError
from slimgpt_serve.onnx_runtime.scoring import load_scored
from tests.command_line import INTEGRITY, USAGE, Desk
from tests.onnx_exports import Exports
from tests.tiny_models import Tiny, load, random_ids

RUNTIME = {"engine": "onnxruntime", "provider": "CPUExecutionProvider"}


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("evaluated-onnx"))


@pytest.fixture
def exported(desk: Desk, exports: Exports, small: Path) -> Path:
    """A float32 export of the model on the desk, to be spoiled."""
    return Path(shutil.copytree(exports.make(small).out, desk.root / "exported"))


@pytest.fixture
def text(desk: Desk) -> Path:
    path = desk.root / "x.txt"
    path.write_text("It was a bright cold day in April, and the clocks were striking. " * 40)
    return path


def evaluate(desk: Desk, *arguments: Any) -> dict[str, Any]:
    ended = desk.run(["evaluate", *map(str, arguments), "--json", "--quiet"])
    assert (ended.code, ended.stderr) == (0, "")
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


# -- figures ---------------------------------------------------------------------------------------


def test_an_export_has_the_perplexity_of_its_checkpoint(
    desk: Desk, exported: Path, text: Path
) -> None:
    options = ("--text", text, "--window", "64")
    dense, graph = (evaluate(desk, x, *options) for x in (desk.model, exported))
    value = graph["perplexity"].pop("value")
    assert value == pytest.approx(dense["perplexity"].pop("value"), rel=1e-5)
    assert graph == dense | RUNTIME | {"precision": "fp32"}


def test_whole_weights_do_not_diverge_and_rounded_ones_do(
    desk: Desk, exported: Path, exports: Exports, small: Path, text: Path
) -> None:
    options = ("--text", text, "--window", "64", "--baseline", desk.model)
    rounded = exports.make(small, "int4").out
    kl = {x: evaluate(desk, x, *options)["kl"]["value"] for x in (exported, rounded)}
    assert abs(kl[exported]) < 1e-7
    assert 1e-4 < kl[rounded] < 0.5
    beside = evaluate(desk, rounded, "--text", text, "--window", "64", "--baseline", exported)
    assert beside["kl"]["value"] == pytest.approx(kl[rounded], rel=1e-3)
    assert beside["precision"] == "int4"


def test_a_checkpoint_may_be_measured_against_an_export(
    desk: Desk, exported: Path, text: Path
) -> None:
    document = evaluate(desk, desk.model, "--text", text, "--window", "64", "--baseline", exported)
    assert abs(document["kl"]["value"]) < 1e-7
    assert "engine" not in document


def test_people_are_told_what_computed_the_figure(desk: Desk, exported: Path, text: Path) -> None:
    ended = desk.run(["evaluate", str(exported), "--text", str(text), "--window", "64"])
    assert ended.code == 0
    shown = " ".join(ended.stdout.split())
    assert "fp32 by onnxruntime on CPUExecutionProvider" in shown


def test_tasks_have_the_scores_of_the_checkpoint(desk: Desk, exported: Path) -> None:
    task = desk.root / "mine.jsonl"
    rows = [
        {"question": f"The {i}th day", "choices": ["was there", f"fell on day {i}"], "label": i % 2}
        for i in range(12)
    ]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dense, graph = (evaluate(desk, x, "--tasks", task) for x in (desk.model, exported))
    assert graph["tasks"] == dense["tasks"]
    assert graph["engine"] == "onnxruntime"


@pytest.mark.parametrize("name", ["llama-tied", "qwen3", "mistral-window"])
def test_logits_are_those_of_transformers(tiny: Tiny, exports: Exports, name: str) -> None:
    dense = tiny.dense(name)
    ids = random_ids(3, 24)
    with torch.no_grad():
        expected = load(dense.reference, torch.float32)(ids, use_cache=False).logits
    found = load_scored(exports.make(dense.path).out, device="cpu")(input_ids=ids).logits
    assert (found - expected).abs().max() < 1e-4 * expected.std()


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["MODEL", "--baseline"])
def test_the_type_of_an_export_is_not_for_choosing(
    desk: Desk, exported: Path, text: Path, where: str
) -> None:
    models = [exported] if where == "MODEL" else [desk.model, "--baseline", exported]
    command = ["evaluate", *models, "--text", text, "--window", "64", "--dtype", "float16"]
    desk.refuses(
        map(str, command), USAGE, "--dtype float16", "is an ONNX export", "slimgpt export onnx"
    )


def test_the_device_is_onnx_runtimes_to_judge(desk: Desk, exported: Path, text: Path) -> None:
    command = ["evaluate", exported, "--text", text, "--window", "64", "--device", "cuda"]
    desk.refuses(map(str, command), USAGE, "--device cuda", "for CPUs alone", "--device cpu")


def test_a_damaged_export_is_refused(desk: Desk, exported: Path, text: Path) -> None:
    data = exported / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-5000])
    command = ["evaluate", exported, "--text", text, "--window", "64"]
    desk.refuses(map(str, command), INTEGRITY, "model.onnx.data")


def test_a_window_beyond_the_graphs_context_is_refused(exported: Path) -> None:
    graph = onnx.load(exported / "model.onnx", load_external_data=False)
    for entry in graph.metadata_props:
        if entry.key == "slimgpt.context_length":
            entry.value = "16"
    onnx.save(graph, exported / "model.onnx")
    (exported / "slimgpt.json").unlink()  # it lists the graph as it was
    with pytest.raises(UsageError, match="texts of 24 tokens are beyond the context") as refused:
        load_scored(exported, device="cpu")(input_ids=random_ids(1, 24))
    assert "16 tokens: give a smaller --window" in str(refused.value)


def test_answers_that_are_generated_are_refused(exported: Path) -> None:
    with pytest.raises(UsageError, match="--tasks: answers that are generated") as refused:
        load_scored(exported, device="cpu").generate(input_ids=random_ids(1, 4))
    assert "give tasks of choices" in str(refused.value)


def test_logits_that_are_no_numbers_are_refused(desk: Desk, exported: Path, text: Path) -> None:
    data = exported / "model.onnx.data"
    data.write_bytes(b"\xff" * data.stat().st_size)  # NaN, whatever the type
    command = ["evaluate", exported, "--text", text, "--window", "64"]
    says = ("the logits are no numbers", "export it again", "--precision fp32")
    desk.refuses(map(str, command), INTEGRITY, *says)
