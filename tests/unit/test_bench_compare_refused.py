"""What differs is not compared, and every difference is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.quantized import Quantized
from slimgpt.demo import MODEL
from slimgpt.errors import SlimGPTError, Unresolved, UsageError
from slimgpt_bench.accelerators import find
from slimgpt_bench.artefact import Artefact, describe, tokenizer_digest
from slimgpt_bench.compare import number_format, prediction
from slimgpt_bench.compare.by_depth import layers_to_drop
from slimgpt_bench.compare.job import CompareOptions
from slimgpt_bench.compare.sides import (
    Side,
    require_comparable,
    require_same_settings,
)
from slimgpt_bench.latency import Cell, LatencyOptions
from slimgpt_bench.roofline.floor import Lengths
from slimgpt_bench.roofline.products import Numbers
from slimgpt_bench.roofline.widths import uneven_widths

CELL = Cell(1, 8, 4)
OPTIONS = LatencyOptions("transformers", (CELL,), device="cpu")


@pytest.fixture(scope="module")
def model() -> Artefact:
    return describe(MODEL)


def refused(first: Artefact, second: Artefact, options: LatencyOptions = OPTIONS) -> SlimGPTError:
    with pytest.raises(Unresolved) as found:
        require_comparable([Side("dense", first), Side("pruned", second)], options)
    assert found.value.exit_code == 3
    return found.value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"form": "onnx"},
            "form is checkpoint and onnx; give two checkpoints, or two ONNX exports",
        ),
        ({"tokenizer_digest": "f" * 64}, "and ffffffffffff; give a model that was made from DENSE"),
        ({"tokenizer_digest": None}, "and none; give a model that was made from DENSE"),
        ({"dtype": "quantised"}, "type of the weights is bfloat16 and quantised; give both in the"),
    ],
)
def test_models_that_differ_are_refused(model: Artefact, change: dict[str, Any], said: str) -> None:
    problem = refused(model, replace(model, name="other", **change))
    (line,) = problem.problems
    assert line.startswith("model and other can't be compared: ")
    assert said in line


def test_all_differences_are_listed_one_a_line(model: Artefact) -> None:
    words = replace(model.shape, vocab_size=5000)
    other = replace(model, tokenizer_digest="0" * 64, shape=words, dtype="quantised")
    problem = refused(model, other)
    assert [line.split(": ")[1].split(" is ")[0] for line in problem.problems] == [
        "tokenizer",
        "vocabulary",
        "type of the weights",
    ]


def test_types_that_are_converted_do_not_matter(model: Artefact) -> None:
    other = replace(model, dtype="float32")
    require_comparable([Side("dense", model), Side("pruned", other)], OPTIONS)
    exports = [replace(model, form="onnx", dtype=x) for x in ("fp32", "int8")]
    assert "fp32 and int8" in str(refused(*exports))  # type: ignore[arg-type]


def test_exports_that_compute_differently_are_refused(model: Artefact, tmp_path: Path) -> None:
    made = {"activations": "float32", "portable": False, "block_size": 32, "accuracy_level": 4}
    told = []
    for name, export in (("a", made), ("b", made | {"portable": True, "accuracy_level": 0})):
        (tmp_path / name).mkdir()
        manifest = json.dumps({"schema": 1, "recipe": {"export": export}})
        (tmp_path / name / "slimgpt.json").write_text(manifest)
        told.append(replace(model, name=name, form="onnx", dtype="int4", directory=tmp_path / name))
    first, second = told
    problem = refused(first, second)
    assert problem.problems == (
        "a and b can't be compared: portable (slimgpt export onnx --portable) is False and True; "
        "give both alike",
        "a and b can't be compared: accuracy_level (slimgpt export onnx --accuracy-level) is 4 and "
        "0; give both alike",
    )


def test_weights_that_are_packed_differently_are_refused(
    model: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(directory: Path) -> Quantized:
        packed = "int4 in groups of 128" if directory.name == "a" else "int8"
        return Quantized(None, "compressed-tensors", "pack", packed, None, (), 0)  # type: ignore[arg-type]

    monkeypatch.setattr(number_format, "read_quantized", read)
    first, second = (
        replace(model, name=x, dtype="quantised", directory=Path(x)) for x in ("a", "b")
    )
    (line,) = refused(first, second).problems
    assert "format of the weights is int4 in groups of 128 and int8; give both alike" in line
    require_comparable([Side("dense", first), Side("pruned", first)], OPTIONS)


def test_a_tokenizer_of_mistrals_own_format_counts_too(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text("{}")
    first = tokenizer_digest(tmp_path)
    (tmp_path / "tekken.json").write_text("{ }")
    assert first
    assert first != tokenizer_digest(tmp_path)


@pytest.mark.parametrize(
    ("engine", "told", "device", "seen"),
    [("transformers", "cuda:1", "cuda:1", "4,5"), ("vllm", "cuda", "cuda", "5")],
)
def test_layers_and_widths_are_timed_on_the_gpu_that_ran_the_models(
    monkeypatch: pytest.MonkeyPatch, engine: str, told: str, device: str, seen: str
) -> None:
    asked: list[tuple[str, str]] = []

    def times(_: Any, options: Any, environment: Any) -> None:
        asked.append((options.device, environment["CUDA_VISIBLE_DEVICES"]))

    def cost(options: Any, environment: Any) -> None:
        times(None, options, environment)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(prediction, "layer_times", times)
    monkeypatch.setattr(prediction, "width_cost", cost)
    dense = describe(MODEL)
    uneven = replace(dense.shape, layers=(replace(dense.shape.layers[0], ffn=100),))
    options = replace(OPTIONS, engine=engine, device="cuda:1")
    measured = prediction._Apart(options, told, "float32", {})
    lengths = Lengths(1, 8, 4)
    measured.layers(dense, dense, lengths)
    gpu, numbers = find("l4"), Numbers(4, 4, "float32")
    measured.widths(uneven_widths(uneven, lengths, gpu, numbers), dense, lengths)
    assert asked
    assert set(asked) == {(device, seen)}


def test_engines_that_run_differently_are_refused() -> None:
    first = {"dtype": "float32", "threads": 1, "version": "1"}
    with pytest.raises(Unresolved) as found:
        require_same_settings(first, first | {"threads": 2, "arena": "off"}, "p25")
    assert found.value.problems == (
        "p25 can't be compared: arena is off, and was None in the first run",
        "p25 can't be compared: threads is 2, and was 1 in the first run",
    )
    require_same_settings(first, dict(first), "p25")


def test_two_third_models_are_refused() -> None:
    with pytest.raises(UsageError, match="--third and --depth are both a third model"):
        CompareOptions(OPTIONS, third=Path("x"), by_depth=True)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(UsageError, match="--rounds 0: give 1 or more; an interval needs 3"):
        CompareOptions(OPTIONS, rounds=0)


def test_a_third_model_by_depth_has_the_nearest_size(model: Artefact) -> None:
    dense = model.shape
    for dropped in range(1, 6):
        near = dense.with_layers(dense.layers[: 6 - dropped])
        assert layers_to_drop(dense, near) == dropped
    with pytest.raises(UsageError, match="OUT is 0 decoder parameters smaller than DENSE"):
        layers_to_drop(dense, dense)
    mixed = dense.with_layers((replace(dense.layers[0], ffn=100), *dense.layers[1:]))
    with pytest.raises(UsageError, match="those of this one differ: give the third model by"):
        layers_to_drop(mixed, dense)
