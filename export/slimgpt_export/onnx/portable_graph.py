"""torch's exporter: from a module to a graph with our names, and to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
)
from torch import nn

from slimgpt.errors import UsageError
from slimgpt_export.onnx.build import DATA, GRAPH
from slimgpt_export.onnx.portable_cache import Caches, KeyValue

OPSET = 23
"""The first with Attention, RotaryEmbedding and RMSNormalization."""
IR_VERSION = 11
"""What came with that opset; the exporter writes an older one."""
_BATCH, _NEW, _PAST = 2, 3, 5
"""Sizes of the example: none is 0 or 1, which the exporter would take for fixed."""
_PAGE = 4096
_SMALLEST_OUTSIDE = 1024
_PREFIX = "decoder."
_LONGEST_REASON = 300


def trace(decoder: nn.Module, caches: Caches, dtype: torch.dtype) -> ir.Model:
    """The graph, with weights still those of the module.

    Args:
        decoder: takes ids, mask, positions and caches.
        caches: widths of them.
        dtype: of the caches.

    Raises:
        UsageError: the exporter can't, with its reason.
    """
    count = len(caches.shapes)
    kinds = [(i, kind) for i in range(count) for kind in ("key", "value")]
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                decoder.eval(),
                _example(caches, dtype),
                dynamo=True,
                opset_version=OPSET,
                optimize=False,
                verbose=False,
                dynamic_shapes=_dynamic(count),
                input_names=[
                    *("input_ids", "attention_mask", "position_ids"),
                    *(f"past_key_values.{i}.{kind}" for i, kind in kinds),
                ],
                output_names=["logits", *(f"present.{i}.{kind}" for i, kind in kinds)],
            )
        assert program is not None
        CommonSubexpressionEliminationPass()(program.model)  # else weights are turned twice
        _name_weights(program.model)
        program.optimize()
    except Exception as reason:  # noqa: BLE001 - what the exporter can't do ends in any kind
        raise _refused(decoder, reason) from None
    _clean(program.model)
    require_standard(program.model)
    return program.model


def write(model: ir.Model, folder: Path) -> None:
    """Writes ``model.onnx`` and ``model.onnx.data``, and has onnx check them, shapes too."""
    ir.save(
        model,
        folder / GRAPH,
        external_data=DATA,
        size_threshold_bytes=_SMALLEST_OUTSIDE,
        max_workers=1,
        alignment=_PAGE,
        align_threshold=_PAGE,
    )
    onnx.checker.check_model(folder / GRAPH, full_check=True)


def _example(caches: Caches, dtype: torch.dtype) -> tuple[Any, ...]:
    past: list[KeyValue] = []
    for x in caches.shapes:
        keys = torch.zeros(_BATCH, x.kv_heads, _PAST, x.key_dim, dtype=dtype)
        past.append((keys, torch.zeros(_BATCH, x.kv_heads, _PAST, x.value_dim, dtype=dtype)))
    before = _PAST if past else 0
    ids = torch.zeros(_BATCH, _NEW, dtype=torch.int64)
    positions = torch.arange(before, before + _NEW).repeat(_BATCH, 1)
    mask = torch.ones(_BATCH, before + _NEW, dtype=torch.int64)
    return ids, mask, positions, past


def _dynamic(count: int) -> tuple[Any, ...]:
    tokens = {0: "batch_size", 1: "sequence_length"}
    cache = {0: "batch_size", 2: "past_sequence_length"}
    return tokens, {0: "batch_size", 1: "total_sequence_length"}, tokens, [(cache, cache)] * count


def _name_weights(model: ir.Model) -> None:
    """Names weights as checkpoints do; a matrix that is stored turned says so."""
    for value in list(model.graph.initializers.values()):
        value.name = (value.name or "").removeprefix(_PREFIX)
        turned = [node.outputs[0] for node in value.consumers() if node.op_type == "Transpose"]
        if len(turned) == 1 and not turned[0].is_graph_output():
            turned[0].name = f"{value.name}.transposed"


def _clean(model: ir.Model) -> None:
    """Takes out what tells of the exporter's insides and of paths here, and names lengths."""
    ClearMetadataAndDocStringPass()(model)
    graph = model.graph
    graph.metadata_props.clear()
    values = [value for node in graph.all_nodes() for value in node.outputs]
    for value in (*values, *graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    for value in graph.outputs:
        if value.name != "logits" and value.shape is not None:
            value.shape[2] = "total_sequence_length"
    model.ir_version = IR_VERSION


def require_standard(model: ir.Model) -> None:
    """Passes operators of ONNX itself.

    Raises:
        UsageError: naming another.
    """
    other = next((node for node in model.graph.all_nodes() if node.domain), None)
    if other or model.functions:
        what = f"{other.domain}::{other.op_type}" if other else "functions"
        raise UsageError(f"--portable: the exporter of torch needed {what}, which is no standard")


def _refused(decoder: Any, reason: BaseException) -> UsageError:
    """In one line, why there is no graph: the innermost reason is the one that tells."""
    while (cause := reason.__cause__) is not None:
        reason = cause
    text = " ".join(str(reason).split())[:_LONGEST_REASON] or "no reason given"
    return UsageError(
        f"--portable: torch can't export {type(decoder.decoder).__name__}: "
        f"{type(reason).__name__}: {text}"
    )
