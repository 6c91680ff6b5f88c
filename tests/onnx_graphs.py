"""The smallest graphs that are ONNX exports: a table of which token follows which, no attention.

They are written by onnx alone, in milliseconds, and may be spoiled before they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, CONTEXT, END = 8, 32, 7
DATA = "model.onnx.data"
METADATA = {
    "schema": "1",
    "version": "0.1.0",
    "source": "0" * 64,
    "precision": "fp32",
    "shape": json.dumps({"hidden_size": 4, "head_dim": 4, "layers": [{"kv_heads": 0}]}),
    "head_dim": "4",
    "context_length": str(CONTEXT),
    "cache": "in_place",
}

Edit = Callable[[Any], None]


def following(*, nan: tuple[int, ...] = (), dtype: str = "float32") -> NDArray[Any]:
    """Logits (token, next token): each token is followed by the next, the last by itself.

    Args:
        nan: tokens behind which all logits are NaN.
        dtype: of the logits.
    """
    table = np.zeros((VOCABULARY, VOCABULARY), dtype)
    for token in range(VOCABULARY):
        table[token, min(token + 1, VOCABULARY - 1)] = 4.0
    table[list(nan)] = np.nan
    return table


def write_table(
    folder: Path, table: NDArray[Any] | None = None, edit: Edit = lambda model: None
) -> Path:
    """Writes an export whose logits are rows of a table, after ``edit`` of its ModelProto."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = numpy_helper.from_array(following() if table is None else table, "table")
    (folder / DATA).write_bytes(weights.raw_data)
    onnx.external_data_helper.set_external_data(
        weights, DATA, offset=0, length=len(weights.raw_data)
    )
    weights.ClearField("raw_data")
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    size: list[str | int | None] = ["batch", "tokens", VOCABULARY]
    logits = helper.make_tensor_value_info("logits", weights.data_type, size)
    node = helper.make_node("Gather", ["table", "input_ids"], ["logits"])
    graph = helper.make_graph([node], "table", [ids], [logits], [weights])
    imports = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    helper.set_model_props(model, {f"slimgpt.{k}": v for k, v in METADATA.items()})
    edit(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "config.json").write_text("{}")
    (folder / "genai_config.json").write_text(json.dumps({"model": {"eos_token_id": END}}))
    return folder


def told(**changes: str | None) -> Edit:
    """Changes entries of the metadata, or takes them out."""

    def edit(model: Any) -> None:
        entries = {entry.key: entry.value for entry in model.metadata_props}
        entries |= {f"slimgpt.{key}": value for key, value in changes.items()}
        del model.metadata_props[:]
        helper.set_model_props(model, {k: v for k, v in entries.items() if v is not None})

    return edit


def with_caches(*sizes: tuple[Any, ...]) -> Edit:
    """Adds caches of these sizes (batch, KV heads, past, head size), which do nothing."""

    def edit(model: Any) -> None:
        for layer, size in enumerate(sizes):
            for kind in ("key", "value"):
                past, present = f"past_key_values.{layer}.{kind}", f"present.{layer}.{kind}"
                value = helper.make_tensor_value_info
                model.graph.input.append(value(past, TensorProto.FLOAT, list(size)))
                model.graph.output.append(value(present, TensorProto.FLOAT, list(size)))
                model.graph.node.append(helper.make_node("Identity", [past], [present]))

    return edit


def stored(**changes: str) -> Edit:
    """Changes where the table is said to be stored."""

    def edit(model: Any) -> None:
        entries = {e.key: e.value for e in model.graph.initializer[0].external_data} | changes
        del model.graph.initializer[0].external_data[:]
        for key, value in entries.items():
            model.graph.initializer[0].external_data.add(key=key, value=value)

    return edit
