"""What stays at higher precision: measured as ONNX Runtime computes it, and chosen by the rule."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import IntegrityError
from slimgpt.progress import Silent
from slimgpt.shape import LayerShape
from slimgpt_export.onnx.build import write_graph
from slimgpt_export.onnx.geometry import plan_geometry
from slimgpt_export.onnx.precision import PARTS, Part, Precision
from slimgpt_export.onnx.sensitivity import (
    NEGLIGIBLE,
    RULE,
    TOKENS,
    WINDOWS,
    Measured,
    best,
    choose_higher,
    parts_of,
    weight_bytes,
    windows_of,
)
from slimgpt_export.onnx.side_by_side import raised_precision
from tests.command_line import Desk
from tests.onnx_kernels import graph_logits
from tests.tiny_models import Tiny, load, random_ids

INT4, INT8 = Precision("int4"), Precision("int8")
TEXTS = random_ids(8, 24)
LAYERS = (LayerShape(4, 1, 50), LayerShape(0, 0, 96), LayerShape(8, 2, 0), LayerShape(4, 1, 33))


def checkpoints(tiny: Tiny, name: str) -> Checkpoint:
    if name == "absent sub-blocks":
        return Checkpoint(
            tiny.pruned(tiny.dense("llama-biases").path, layers=LAYERS, kv_heads="prune")
        )
    return Checkpoint(tiny.dense(name).path)


def kl_of_graph(checkpoint: Checkpoint, precision: Precision, ids: Tensor, folder: Path) -> float:
    """By running the graph and transformers' model."""
    write_graph(checkpoint, precision, folder)
    with torch.no_grad():
        whole = load(checkpoint.directory, torch.float32)(ids, use_cache=False).logits
    p, q = (x.double().log_softmax(2) for x in (whole, graph_logits(folder / "model.onnx", ids)))
    return float((p.exp() * (p - q)).sum(2).mean())


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("llama-mha", INT4),  # heads of 8, which the graph widens to 16
        ("llama-tied", INT4),
        ("qwen3", replace(INT4, symmetric=False)),
        ("mistral-window", replace(INT4, block_size=16)),
        ("absent sub-blocks", INT4),  # FFNs of 50 and 33, which it widens to 64
        ("llama-tied", INT8),
        ("qwen2", replace(INT8, accuracy_level=0)),
    ],
)
def test_the_divergence_is_that_of_the_graph_in_onnx_runtime(
    tiny: Tiny, tmp_path: Path, name: str, precision: Precision
) -> None:
    checkpoint = checkpoints(tiny, name)
    rows = choose_higher(checkpoint, precision, TEXTS).rows
    assert len(rows) == 8
    for row in (rows[0], rows[3], rows[5]):
        raised = raised_precision(precision, row.raised)
        expected = kl_of_graph(checkpoint, raised, TEXTS, tmp_path)
        # Kernels and torch round some activations to different sides.
        assert row.kl == pytest.approx(expected, rel=0.03), row.raised
        assert row.weight_bytes == file_bytes(tmp_path / "model.onnx"), row.raised


def file_bytes(graph: Path) -> int:
    """Bytes of all weights in a file: not the tables of rope, and no arithmetic on shapes."""
    tensors = onnx.load(graph, load_external_data=True).graph.initializer
    return sum(
        onnx.numpy_helper.to_array(tensor).nbytes
        for tensor in tensors
        if not tensor.name.startswith("rope") and tensor.data_type != onnx.TensorProto.INT64
    )


def test_all_combinations_are_measured_and_the_rule_chooses(tiny: Tiny) -> None:
    choice = choose_higher(checkpoints(tiny, "qwen3"), INT4, TEXTS)
    asked = [c for n in range(4) for c in combinations(PARTS, n)]
    assert [row.raised for row in choice.rows] == asked
    chosen = best(choice.rows)
    assert dict(choice.higher) == dict.fromkeys(chosen.raised, 8)
    assert (choice.rule, choice.positions) == (RULE, TEXTS.numel())
    by_bytes = sorted(choice.rows, key=lambda row: row.weight_bytes)
    assert by_bytes[0].raised == ()
    assert by_bytes[-1].raised == PARTS
    assert choice.rows[-1].kl < choice.rows[0].kl


@pytest.mark.parametrize("keep", [("head",), ("last", "first"), PARTS])
def test_parts_that_the_user_keeps_are_measured_beside_none(
    tiny: Tiny, keep: tuple[Part, ...]
) -> None:
    checkpoint = checkpoints(tiny, "llama-tied")
    choice = choose_higher(checkpoint, INT4, TEXTS, keep=keep)
    assert dict(choice.higher) == dict.fromkeys(keep, 8)
    assert [set(row.raised) for row in choice.rows] == [set(), set(keep)]
    assert choice.rule is None
    every = {row.raised: row.kl for row in choose_higher(checkpoint, INT4, TEXTS).rows}
    for row in choice.rows:
        assert row.kl == pytest.approx(every[row.raised], rel=1e-6)


def test_with_nothing_kept_one_figure_is_measured(tiny: Tiny) -> None:
    choice = choose_higher(checkpoints(tiny, "qwen3"), INT8, TEXTS, keep=())
    assert [row.raised for row in choice.rows] == [()]
    assert dict(choice.higher) == {}


def test_equal_runs_give_equal_figures(tiny: Tiny) -> None:
    checkpoint = checkpoints(tiny, "llama-mha")
    first, second = (choose_higher(checkpoint, INT4, TEXTS) for _ in range(2))
    assert first.to_json() == second.to_json()


def test_a_model_of_nothing_but_raised_parts_is_the_checkpoint(small: Path) -> None:
    checkpoint = Checkpoint(small)  # two layers and a tied head
    choice = choose_higher(checkpoint, INT8, random_ids(2, 24), keep=PARTS)
    assert choice.rows[-1].kl < 1e-10
    assert choice.rows[0].kl > 1e-6
    assert dict(choice.higher) == {"first": None, "last": None, "head": None}


def test_a_single_layer_is_the_first_and_not_the_last(desk: Desk) -> None:
    desk.edit_config(num_hidden_layers=1)
    desk.edit_weights(lambda weights: [weights.pop(k) for k in list(weights) if ".1." in k])
    checkpoint = Checkpoint(desk.model)
    assert parts_of(checkpoint.shape) == ("first", "head")
    rows = choose_higher(checkpoint, INT4, random_ids(2, 24)).rows
    assert [row.raised for row in rows] == [(), ("first",), ("head",), ("first", "head")]
    kept = choose_higher(checkpoint, INT4, random_ids(2, 24), keep=("last", "head"))
    assert dict(kept.higher) == {"head": 8}


def test_predictions_that_are_no_numbers_are_refused(desk: Desk) -> None:
    desk.edit_weights(lambda weights: weights["model.norm.weight"].fill_(float("inf")))
    with pytest.raises(IntegrityError) as refused:
        choose_higher(Checkpoint(desk.model), INT4, random_ids(2, 24))
    assert "--precision int4: the predictions are no numbers" in str(refused.value)
    assert "give --precision fp32" in str(refused.value)


def test_every_layer_is_told_of(tiny: Tiny) -> None:
    class Told(Silent):
        stages: list[tuple[str, int]] = []  # noqa: RUF012
        steps = 0

        def start(self, stage: str, total: int) -> None:
            self.stages.append((stage, total))

        def advance(self, steps: int = 1) -> None:
            self.steps += steps

    told = Told()
    choose_higher(checkpoints(tiny, "qwen3"), INT4, TEXTS, told)
    assert (told.stages, told.steps) == ([("measuring precision", 5)], 5)


# -- the rule --------------------------------------------------------------------------------------

ROWS: dict[str, Callable[[], list[Measured]]] = {
    "pays": lambda: [Measured((), 0.1, 100), Measured(("head",), 0.05, 150)],
    "does not pay": lambda: [Measured((), 0.1, 100), Measured(("head",), 0.07, 150)],
    "nothing to win": lambda: [
        Measured((), NEGLIGIBLE / 2, 100),
        Measured(("head",), NEGLIGIBLE / 100, 101),
    ],
    "costs nothing": lambda: [Measured((), 0.1, 100), Measured(("first",), 0.1, 100)],
    "two together": lambda: [
        Measured((), 0.1, 100),
        Measured(("first",), 0.095, 110),
        Measured(("head",), 0.095, 110),
        Measured(("first", "head"), 0.01, 120),
    ],
}


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ("pays", ("head",)),
        ("does not pay", ()),
        ("nothing to win", ()),
        ("costs nothing", ()),
        ("two together", ("first", "head")),
    ],
)
def test_a_part_is_raised_where_the_loss_falls_by_more_than_the_bytes_grow(
    rows: str, chosen: tuple[Part, ...]
) -> None:
    assert best(ROWS[rows]()).raised == chosen


@pytest.mark.parametrize(
    ("tokens", "context", "expected"),
    [
        (100_000, 2048, (WINDOWS, TOKENS)),
        (100_000, 64, (WINDOWS, 64)),
        (3 * TOKENS + 5, 2048, (3, TOKENS)),
        (50, 2048, (1, 50)),
    ],
)
def test_windows_lie_side_by_side(tokens: int, context: int, expected: tuple[int, int]) -> None:
    windows = windows_of(torch.arange(tokens), context)
    assert tuple(windows.shape) == expected
    assert torch.equal(windows.flatten(), torch.arange(windows.numel()))


def test_bytes_are_those_of_stored_and_raised_weights(tiny: Tiny) -> None:
    checkpoint = checkpoints(tiny, "llama-tied")
    raised: tuple[tuple[Part, ...], ...] = ((), ("first",), ("head",))
    sizes = {parts: weight_bytes(checkpoint, raised_precision(INT4, parts)) for parts in raised}
    shape = plan_geometry(checkpoint.shape, INT4).graph
    head = shape.vocab_size * shape.hidden_size
    assert sizes[("head",)] - sizes[()] == head // 2  # four bits more of each weight
    matrices = shape.layer_parameters(shape.layers[0]) - 2 * shape.hidden_size
    assert sizes[("first",)] - sizes[()] == matrices // 2
