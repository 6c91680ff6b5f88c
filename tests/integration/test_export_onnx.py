"""An ONNX export is the function of its model: every family, rope, window and missing block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.shape import LayerShape
from slimgpt_export.onnx.build import DATA, GRAPH
from slimgpt_export.onnx.options import OnnxOptions
from slimgpt_export.onnx.size import disk_bytes
from slimgpt_serve.onnx_runtime.generator import runner_of
from tests.onnx_exports import (
    Exports,
    cached_logits,
    opened,
    prefill_logits,
    torch_cached_logits,
)
from tests.tiny_models import (
    CASES,
    LENGTH,
    Case,
    Tiny,
    assert_same,
    load,
    logits,
    random_ids,
    write,
)

Widths = tuple[tuple[int, int, int], ...]

MHA: Widths = ((8, 8, 96), (5, 5, 40), (3, 3, 33), (7, 7, 50))
KEPT: Widths = ((8, 2, 96), (6, 2, 50), (2, 2, 33), (4, 2, 17))
GROUPS: Widths = ((8, 2, 96), (4, 1, 50), (4, 1, 33), (8, 2, 64))
SIX: Widths = ((6, 2, 96), (3, 1, 50), (6, 2, 33), (3, 1, 17))
HOLES: Widths = ((0, 0, 40), (6, 2, 0), (0, 0, 0), (4, 2, 17))
SIX_HOLES: Widths = ((0, 0, 40), (4, 2, 0), (0, 0, 0), (2, 2, 17))
NO_ATTENTION: Widths = ((0, 0, 40), (0, 0, 33), (0, 0, 96), (0, 0, 17))


@dataclass(frozen=True)
class Pruned:
    """A family and the widths that its four layers are cut to."""

    source: str
    widths: Widths
    kv_heads: str = "keep"


PRUNED = {
    "llama-mha": Pruned("llama-mha", MHA, "prune"),
    "llama-gqa-keep": Pruned("llama-biases", KEPT),
    "llama-gqa-prune": Pruned("llama-bfloat16", GROUPS, "prune"),
    "llama-tied-holes": Pruned("llama-tied", HOLES),
    "llama-no-attention": Pruned("llama-tied", NO_ATTENTION),
    "mistral-window-holes": Pruned("mistral-window", HOLES),
    "qwen2-holes": Pruned("qwen2", HOLES),
    "qwen2-windows": Pruned("qwen2-windows", GROUPS, "prune"),
    "qwen3": Pruned("qwen3", SIX, "prune"),
    "qwen3-windows-holes": Pruned("qwen3-windows", SIX_HOLES),
    "longrope-holes": Pruned("rope-longrope", HOLES),
}
DENSE = [name for name in CASES if name != "llama-gelu" and not name.startswith("old-")]
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


def pruned(tiny: Tiny, case: Pruned) -> Path:
    layers = tuple(LayerShape(*x) for x in case.widths)
    dense = tiny.dense(case.source).path
    return tiny.pruned(dense, layers=layers, kv_heads=case.kv_heads)


def sides(name: str) -> tuple[int, int]:
    """Tokens of a text, and of its prompt: dynamic rope scales beyond 16, which no table has."""
    return (16, 10) if "dynamic" in name else (LENGTH, 14)


def assert_equal(export: Path, reference: Path, name: str) -> None:
    """Whole texts, and a text token by token behind its prompt, as transformers has them."""
    length, prompt = sides(name)
    ids = random_ids(3, length, seed=1)
    model, session = load(reference, torch.float32), opened(export)
    assert_same(prefill_logits(session, ids), logits(model, ids), 2e-5)
    expected = torch_cached_logits(model, ids[0], prompt)
    assert_same(cached_logits(session, ids[0], prompt), expected, 2e-5)


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_model_is_the_same_function(name: str, tiny: Tiny, exports: Exports) -> None:
    dense = tiny.dense(name)
    assert_equal(exports.make(dense.path).out, dense.reference, name)


@pytest.mark.parametrize("name", PRUNED)
def test_layers_of_their_own_widths_are_the_same_function(
    name: str, tiny: Tiny, exports: Exports
) -> None:
    path = pruned(tiny, PRUNED[name])
    assert_equal(exports.make(path).out, path, name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_norms_of_widened_heads_are_not_rounded_once_more(
    precision: str, exports: Exports, tmp_path: Path
) -> None:
    case = Case("qwen3", {"head_dim": 10, "num_attention_heads": 6}, torch.bfloat16)
    dense = write(case, tmp_path)
    export = exports.make(dense.path, precision)
    assert export.geometry
    assert export.geometry.widened_heads
    assert export.measured["parity"]["prefill"]["largest"] < 2e-5
    if precision == "fp32":
        assert_equal(export.out, dense.reference, "qwen3")


TABLE: dict[str, Pruned | tuple[str, float]] = {
    f"{family} {label}": (family, ratio)
    for family in ("llama-mha", "mistral-window", "qwen2", "qwen3")
    for label, ratio in {"dense": 0.0, "25 %": 0.25, "50 %": 0.5}.items()
} | {
    f"{name} shaped": PRUNED[name]
    for name in ("llama-gqa-keep", "llama-gqa-prune", "llama-tied-holes", "qwen3-windows-holes")
}


def model_of(tiny: Tiny, row: Pruned | tuple[str, float]) -> Path:
    if isinstance(row, Pruned):
        return pruned(tiny, row)
    family, ratio = row
    dense = tiny.dense(family).path
    return tiny.pruned(dense, ratio) if ratio else dense


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", TABLE)
def test_parity_by_family_and_precision(
    name: str, precision: str, tiny: Tiny, exports: Exports, record_property: Callable[..., None]
) -> None:
    result = exports.make(model_of(tiny, TABLE[name]), precision)
    parity = result.measured["parity"]
    largest = max(parity["prefill"]["largest"], parity["decode"]["largest"])
    same = min(parity["prefill"]["agreement"], parity["decode"]["agreement"])
    record_property("measured", f"largest {largest:.1e} sd, same token {same:.0%}")
    assert parity["decode"]["positions"] == 16
    assert (parity["rounding"] is not None) == (precision in ("int8", "int4"))


# -- the file -----------------------------------------------------------------------------------


def initializers(export: Path) -> dict[str, tuple[int, ...]]:
    model = onnx.load(export / GRAPH, load_external_data=False)
    return {x.name: tuple(x.dims) for x in model.graph.initializer}


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_tied_embedding_is_stored_once(precision: str, tiny: Tiny, exports: Exports) -> None:
    export = exports.make(tiny.dense("llama-tied").path, precision).out
    tables = [n for n in initializers(export) if "embed_tokens" in n or "lm_head" in n]
    parts = [n for n in tables if not n.endswith((".scales", ".table"))]
    assert len([n for n in parts if "size" not in n]) == 1


def test_prompt_and_answer_share_one_graph_without_other_operators(
    tiny: Tiny, exports: Exports
) -> None:
    model = onnx.load(exports.make(tiny.dense("llama-mha").path).out / GRAPH)
    onnx.checker.check_model(model, full_check=False)
    kinds = {(node.domain, node.op_type) for node in model.graph.node}
    assert ("com.microsoft", "GroupQueryAttention") in kinds
    assert {domain for domain, _ in kinds} <= {"", "com.microsoft"}


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_equal_runs_give_equal_bytes(
    precision: str, tiny: Tiny, exports: Exports, tmp_path: Path
) -> None:
    source = tiny.dense("llama-biases").path
    first = exports.make(source, precision).out
    second = Exports(tmp_path).make(source, precision).out
    assert {p.name for p in first.iterdir()} == {p.name for p in second.iterdir()}
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_fewer_bits_are_fewer_bytes(tiny: Tiny, exports: Exports) -> None:
    source = tiny.dense("llama-mha").path
    sizes = [(exports.make(source, p).out / DATA).stat().st_size for p in PRECISIONS]
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3] > sizes[4]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["llama-tied", "rope-longrope", "qwen2"])
def test_the_disk_that_is_asked_for_is_enough_and_little_more(
    name: str, precision: str, tiny: Tiny, exports: Exports
) -> None:
    source = tiny.dense(name).path
    result = exports.make(source, precision)
    weights = (result.out / DATA).stat().st_size
    pages = 4096 * len(initializers(result.out))  # tensors begin at one
    asked = disk_bytes(Checkpoint(source), OnnxOptions(result.precision, device="cuda"))
    assert weights - pages <= asked
    assert result.precision.quantized or asked <= weights + pages
    on_cpu = disk_bytes(Checkpoint(source), OnnxOptions(result.precision, device="cpu"))
    assert (on_cpu > 2.9 * asked) == (precision == "bf16")  # checked in a float32 graph beside it


# -- batches ------------------------------------------------------------------------------------


def test_a_ragged_batch_is_each_text_by_itself(tiny: Tiny, exports: Exports) -> None:
    path = pruned(tiny, PRUNED["llama-gqa-keep"])
    session, lengths = opened(exports.make(path).out), [14, 3, 9]
    ids = random_ids(3, LENGTH, seed=2)
    runner = runner_of(session, LENGTH, 3)
    for slot, length in enumerate(lengths):
        runner.prefill(slot, ids[slot, :length].tolist())
    together = []
    for step in range(4):
        held = [length + step for length in lengths]
        tokens = [int(ids[slot, held[slot]]) for slot in range(3)]
        together.append(runner.decode(tokens, held))
    alone = [
        cached_logits(session, ids[slot, : length + 4], length)[1:].numpy()
        for slot, length in enumerate(lengths)
    ]
    assert_same(torch.from_numpy(np.stack(together, axis=1)), torch.from_numpy(np.stack(alone)))
