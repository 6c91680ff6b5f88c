"""Quantised checkpoints: every family and per-layer widths, read back, measured, reproducible."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

from slimgpt.checkpoint.quantized import read_quantized
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.demo import CALIBRATION
from slimgpt.errors import EnvironmentProblem, GateMissed, UsageError
from slimgpt.loading import load_model
from slimgpt.progress import Silent
from slimgpt.shape import LayerShape
from slimgpt.workspace import Workspace
from slimgpt_export.quantize import quantize
from slimgpt_export.quantize_data import DataOptions
from slimgpt_export.quantize_options import QuantizeOptions, QuantizeResult
from slimgpt_export.quantize_schemes import SCHEMES, Target
from tests.command_line import Desk
from tests.tiny_models import LENGTH, Tiny, logits, random_ids

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llmcompressor") is None, reason="needs the extra quantize"
)

GROUP = 32
PACKED = {"fp8": "F8_E4M3", "w8a8": "I8", "w4a16": "I32"}
SAMPLES = ("--samples", "8", "--sequence-length", "32")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids to calibrate and measure on."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    ids = random_ids(48, LENGTH, seed=9).tolist()
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))
    return path


def run(model: Path, out: Path, rows: Path, scheme: str, **options: Any) -> QuantizeResult:
    target = Target(SCHEMES[scheme], GROUP if SCHEMES[scheme].grouped else 128)
    data = DataOptions((str(rows),), samples=16, sequence_length=LENGTH)
    return quantize(model, out, QuantizeOptions(target, data, device="cpu", **options))


def per_layer(tiny: Tiny, name: str) -> Path:
    """A pruned checkpoint whose layers differ, with absent sub-blocks of every kind."""
    source = tiny.dense(name).path
    [layer, *_] = Checkpoint(source).shape.layers
    half = LayerShape(layer.query_heads // 2, layer.kv_heads // 2, 0)
    layers = LayerShape(0, 0, 64), half, layer, LayerShape(0, 0, 0)
    return tiny.pruned(source, layers=layers, kv_heads="prune")


FAMILIES = ("llama-bfloat16", "llama-biases", "mistral-window", "qwen2-windows", "qwen3-windows")
NO_WHOLE_GROUPS = ("qwen3-windows", "w4a16")
"""Half of its heads are 48 inputs, no whole groups of 32: such widths are refused elsewhere."""


@pytest.mark.parametrize(
    ("name", "scheme"),
    [(n, s) for n in FAMILIES for s in SCHEMES if (n, s) != NO_WHOLE_GROUPS],
)
def test_every_family_is_served_with_its_own_widths(tiny, rows, tmp_path, name, scheme):
    model, out = per_layer(tiny, name), tmp_path / "out"
    run(model, out, rows, scheme)
    config = json.loads((model / "config.json").read_text())
    written = json.loads((out / "config.json").read_text())
    assert written.pop("quantization_config")["quant_method"] == "compressed-tensors"
    assert written == config
    assert "Widths differ by layer" in (out / "README.md").read_text()

    dense, _ = load_model(model, device="cpu", dtype="float32")
    ids = random_ids(4, LENGTH, seed=3)
    expected = logits(dense, ids)
    error = (logits(load_model(out, device="cpu")[0], ids) - expected).std() / expected.std()
    assert error < 0.35  # random weights of 64 inputs; trained ones lose far less


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_matrices_of_decoder_layers_change(tiny, rows, tmp_path, scheme):
    model, out = tiny.dense("llama-bfloat16").path, tmp_path / "out"
    run(model, out, rows, scheme)
    before = load_file(model / "model.safetensors")
    after = load_file(out / "model.safetensors")
    for name, weight in before.items():
        if "_proj" in name:
            stored = after.get(name, after.get(f"{name}_packed"))
            assert stored is not None
            assert stored.element_size() * stored.numel() <= weight.numel()
        else:
            assert after[name].equal(weight)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16"])
def test_equal_runs_give_equal_bytes(tiny, rows, tmp_path, scheme):
    model = per_layer(tiny, "llama-bfloat16")
    for name in ("first", "second"):
        run(model, tmp_path / name, rows, scheme)
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
        for name in ("first", "second")
    )
    assert first == second


def test_gptq_loses_less_than_rounding(tiny, rows, tmp_path):
    model, out = tiny.dense("llama-bfloat16").path, tmp_path / "out"
    run(model, out, rows, "w4a16")
    dense, rounded = (load_model(model, device="cpu", dtype="float32")[0] for _ in range(2))
    ids = random_ids(48, LENGTH, seed=9)
    expected = logits(dense, ids)
    for name, weight in rounded.named_parameters():
        if "_proj.weight" in name:
            groups = weight.data.unflatten(1, (-1, GROUP))
            scale = groups.abs().amax(2, keepdim=True) / 7.5
            weight.data = ((groups / scale).round().clamp(-8, 7) * scale).flatten(1)
    gptq = (logits(load_model(out, device="cpu")[0], ids) - expected).std()
    assert gptq < 0.95 * (logits(rounded, ids) - expected).std()


def test_quality_is_that_of_what_is_published(tiny, rows, tmp_path):
    from slimgpt.evaluate.perplexity import measure
    from slimgpt.evaluate.windows import EvaluationText

    model, out = per_layer(tiny, "llama-bfloat16"), tmp_path / "out"
    text = tmp_path / "text.jsonl"
    ids = random_ids(12, LENGTH, seed=4)
    text.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids.tolist()))
    target = Target(SCHEMES["w8a8"])
    data = DataOptions((str(rows),), samples=16, sequence_length=LENGTH, text=text)
    result = quantize(model, out, QuantizeOptions(target, data, device="cpu"))

    dense, _ = load_model(model, device="cpu", dtype="float32")
    again = measure(load_model(out, device="cpu")[0], EvaluationText(ids, "text.jsonl", ""), dense)
    assert result.quality["kl"] == pytest.approx(again.kl, rel=1e-3)
    assert result.quality["perplexity"] == pytest.approx(again.perplexity, rel=1e-3)
    assert result.quality["tokens"] == 12 * (LENGTH - 1)
    assert result.quality["weight_bytes"]["after"] == read_quantized(out).weight_bytes
    manifest = json.loads((out / "slimgpt.json").read_text())
    assert manifest["quality"]["quantization"] == result.quality
    assert manifest["source"] == json.loads((model / "slimgpt.json").read_text())["source"]
    assert manifest["recipe"]["method"] == "exact"
    assert manifest["recipe"]["quantization"]["scheme"] == "w8a8"


@pytest.mark.parametrize("scheme", ["fp8", "w8a8"])
def test_the_weights_are_let_go_before_the_result_is_measured(tiny, tmp_path, scheme):
    """llm-compressor's session and its tracing keep the model: it would be there a third time."""
    from llmcompressor.core import active_session

    from slimgpt_export.quantize_llmcompressor import pack

    model, _ = load_model(tiny.dense("llama-bfloat16").path, device="cpu", dtype="bfloat16")
    pack(model, SCHEMES[scheme], 128, random_ids(4, LENGTH, seed=9), tmp_path, Silent())
    assert active_session().state.model is None
    assert not sum(parameter.nbytes for parameter in model.parameters())
    assert (tmp_path / "model.safetensors").exists()


def test_a_run_killed_behind_its_publishing_is_only_cleaned_up(tiny, rows, tmp_path, monkeypatch):
    model, out = tiny.dense("llama-bfloat16").path, tmp_path / "out"

    def killed(_: Workspace) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, out, rows, "fp8")
    monkeypatch.undo()
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(UsageError, match="exists"):
        run(model, out, rows, "w8a8")  # the work beside it is of another recipe
    assert run(model, out, rows, "fp8").quality["tokens"]
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_is_too_small_is_told_before_a_weight_is_changed(
    tiny, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr("slimgpt.resources.shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(EnvironmentProblem, match=r"the quantised checkpoint needs .* 9 B are free"):
        run(tiny.dense("llama-bfloat16").path, tmp_path / "out", rows, "fp8")
    assert list(tmp_path.iterdir()) == []


def test_files_are_as_readable_as_any(tiny, rows, tmp_path):
    run(tiny.dense("llama-bfloat16").path, tmp_path / "out", rows, "fp8")
    [mode] = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    (tmp_path / "any").touch()
    assert mode == (tmp_path / "any").stat().st_mode & 0o777


def test_a_missed_gate_leaves_nothing(tiny, rows, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(GateMissed, match=r"above --max-kl 1e-09: nothing is written") as missed:
        run(tiny.dense("llama-bfloat16").path, out, rows, "fp8", max_kl=1e-9)
    assert missed.value.limit == 1e-9
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_model_is_not_quantised_again(tiny, rows, tmp_path):
    model = tiny.dense("llama-bfloat16").path
    run(model, tmp_path / "out", rows, "fp8")
    with pytest.raises(UsageError, match="is quantised: give the MODEL"):
        run(tmp_path / "out", tmp_path / "twice", rows, "fp8")
    with pytest.raises(UsageError, match="prune first, quantise after"):
        Checkpoint(tmp_path / "out")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_stored_types_are_those_of_the_scheme(tiny, rows, tmp_path, scheme):
    from safetensors import safe_open

    run(tiny.dense("llama-bfloat16").path, tmp_path / "out", rows, scheme)
    suffix = "_packed" if SCHEMES[scheme].grouped else ""
    name = f"model.layers.0.mlp.down_proj.weight{suffix}"
    with safe_open(tmp_path / "out" / "model.safetensors", framework="np") as file:
        assert file.get_slice(name).get_dtype() == PACKED[scheme]


def test_the_command_prints_one_document(desk: Desk):
    arguments = ("export", "quantized", str(desk.model), str(desk.out), "--scheme", "w8a8")
    ended = desk.run([*arguments, "--calibration", str(CALIBRATION), *SAMPLES, "--json"])
    assert ended.code == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["weight_bytes"]["after"] < document["weight_bytes"]["before"]
    assert document["perplexity"] == pytest.approx(document["baseline_perplexity"], rel=0.05)
    assert "INFO" not in ended.stderr
    assert "it/s" not in ended.stderr
    assert not desk.out.with_name("out.partial").exists()

    shown = desk.run(["inspect", str(desk.out)])
    assert shown.code == 0, shown.stderr
    assert "weights int8, activations int8" in shown.stdout
    card = (desk.out / "README.md").read_text()
    assert "quantised to w8a8" in card
    assert "vLLM and transformers load it as it is" in card
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (desk.out / name).read_bytes() == (desk.model / name).read_bytes()
    assert str(document["kl"]) in card


def test_a_gate_ends_in_one_line_and_code_1(desk: Desk):
    arguments = ("export", "quantized", str(desk.model), str(desk.out), "--scheme", "fp8")
    text = ("--calibration", str(CALIBRATION), *SAMPLES, "--max-kl", "0", "-q")
    desk.refuses([*arguments, *text], 1, "KL(MODEL || quantised) is", "above --max-kl 0")
