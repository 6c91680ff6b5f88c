"""From a checkpoint to model.onnx and model.onnx.data, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from slimgpt.checkpoint.reader import Checkpoint, ConfigOnly
from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt_export.onnx.geometry import Geometry, norm_epsilon, plan_geometry
from slimgpt_export.onnx.graph import GraphOptions, build_graph
from slimgpt_export.onnx.precision import Precision
from slimgpt_export.onnx.rope import context_length, rope_tables
from slimgpt_export.onnx.weights import GraphWeights

GRAPH, DATA = "model.onnx", "model.onnx.data"
_PAGE = 4096
_SMALLEST_OUTSIDE = 1024
"""Bytes; shape arithmetic stays in the graph, where every tool sees it."""
MOST_POSITIONS = 2**22
"""The longest context of any model in use: 2 GiB of angles where heads are 128 wide."""


_SILU = ("silu", "swish")


def require_known(meta: ConfigOnly) -> None:
    """Refuses a model that the builder has no operators for.

    Raises:
        UsageError: naming the way out.
    """
    context = context_length(meta)
    if context > MOST_POSITIONS:
        raise UsageError(
            f"{meta.directory} has max_position_embeddings {context}, and the graph holds the "
            f"angles of each position, of at most {MOST_POSITIONS}: lower it in config.json"
        )
    activation = meta.config.get("hidden_act", "silu")
    if activation not in _SILU:
        raise UsageError(
            f"{meta.directory} has hidden_act {activation}, and the graph builder knows silu: "
            "give --portable, which exports what transformers computes"
        )
    rope = meta.config.get("rope_parameters") or meta.config.get("rope_scaling") or {}
    turned = rope.get("partial_rotary_factor", meta.config.get("partial_rotary_factor"))
    if turned not in (None, 1, 1.0):
        raise UsageError(
            f"{meta.directory} has partial_rotary_factor {turned}, and the graph builder turns "
            "whole heads: give --portable, which exports what transformers computes"
        )


def graph_metadata(folder: Path) -> dict[str, str]:
    """What a written graph says of itself."""
    model = onnx.load(folder / GRAPH, load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def write_graph(
    checkpoint: Checkpoint,
    precision: Precision,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Geometry:
    """Writes the graph and its weights, and has onnx check them.

    Args:
        checkpoint: dense or pruned.
        precision: of the weights.
        folder: gets ``model.onnx`` and ``model.onnx.data``.
        dtype: of activations, caches and what is not quantised; default as the precision says.
        metadata: for the graph's ``metadata_props``.
        advance: is told of every tensor's bytes when they are written.

    Returns:
        the widths of model and graph.

    Raises:
        UsageError: the model or the precision is not for this builder.
        EnvironmentProblem: the disk is full.
    """
    meta = checkpoint.meta
    require_known(meta)
    geometry = plan_geometry(meta.shape, precision)
    dtype = dtype or getattr(torch, precision.activations)
    options = GraphOptions(
        dtype=dtype,
        epsilon=norm_epsilon(meta),
        windows=[meta.family.sliding_window(meta.config, i) for i in range(len(meta.shape.layers))],
        rope=rope_tables(meta, geometry),
        accuracy_level=precision.accuracy_level,
    )
    model = build_graph(geometry, options, GraphWeights(checkpoint, geometry, precision, dtype))
    model.metadata_props.update(metadata or {})
    try:
        _save(model, folder, advance)
    except OSError as reason:
        raise EnvironmentProblem(
            f"{folder / DATA} can't be written ({reason.strerror or reason}): free some disk, or "
            "choose an OUT on another disk"
        ) from None
    onnx.checker.check_model(folder / GRAPH)
    return geometry


def _save(model: ir.Model, folder: Path, advance: Callable[[int], None]) -> None:
    ir.save(
        model,
        folder / GRAPH,
        external_data=DATA,
        size_threshold_bytes=_SMALLEST_OUTSIDE,
        callback=lambda tensor, _: advance(tensor.nbytes),
        max_workers=1,  # else several tensors are read, packed and held at a time
        alignment=_PAGE,  # what can be mapped is not copied
        align_threshold=_PAGE,
    )
