"""ONNX Runtime by itself: operators on quantised matrices, and graphs as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import Tensor

from slimgpt_export.onnx.blocks import Blocks
from slimgpt_export.onnx.nodes import CONTRIB, Nodes
from slimgpt_export.onnx.weights import IR_TYPES


def matmul(x: Tensor, blocks: Blocks, accuracy_level: int) -> Tensor:
    """x times a matrix (out, in), as MatMulNBits computes it."""
    out, count, _ = blocks.values.shape
    width = count * blocks.block_size
    nodes = Nodes("matmul")
    given = nodes.input("x", IR_TYPES[x.dtype], [*x.shape])
    y = nodes.add(
        "MatMulNBits",
        [given, *_stored(nodes, blocks, x.dtype)],
        "y",
        domain=CONTRIB,
        N=out,
        K=width,
        bits=blocks.bits,
        block_size=blocks.block_size,
        accuracy_level=accuracy_level,
    )
    nodes.output(y, "y", IR_TYPES[x.dtype], [*x.shape[:-1], out])
    return _run(nodes, x=x)


def gather(ids: Tensor, blocks: Blocks) -> Tensor:
    """Rows of a matrix, as GatherBlockQuantized looks them up."""
    out, count, _ = blocks.values.shape
    nodes = Nodes("gather")
    given = nodes.input("ids", ir.DataType.INT64, [*ids.shape])
    values, *others = _stored(nodes, blocks, torch.float32)
    flat = nodes.add("Reshape", [values, nodes.constant("size", [out, -1])], "flat")
    rows = nodes.add(
        "GatherBlockQuantized",
        [flat, given, *others],
        "rows",
        domain=CONTRIB,
        bits=blocks.bits,
        block_size=blocks.block_size,
        gather_axis=0,
        quantize_axis=1,
    )
    nodes.output(rows, "rows", ir.DataType.FLOAT, [*ids.shape, count * blocks.block_size])
    return _run(nodes, ids=ids)


def _stored(nodes: Nodes, blocks: Blocks, dtype: torch.dtype) -> list[ir.Value]:
    tensors = {
        "values": blocks.values,
        "scales": blocks.scales.to(dtype),
        "zero_points": blocks.zero_points,
    }
    return [
        nodes.weight(ir.tensor(tensor.numpy(), name=name))
        for name, tensor in tensors.items()
        if tensor is not None
    ]


def _run(nodes: Nodes, **inputs: Tensor) -> Tensor:
    model: Any = ir.to_proto(nodes.model())
    session = _session(model.SerializeToString())
    [found] = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(found)


def graph_logits(graph: Path, ids: Tensor) -> Tensor:
    """Logits (texts, tokens, vocabulary) of a written graph, without a past."""
    session = _session(str(graph))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            inputs[value.name] = torch.zeros(len(ids), value.shape[1], 0, value.shape[3])
    [found] = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(found)


def _session(graph: str | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
