"""Opening model.onnx as data alone: whatever is wrong with it is said before anything runs it.

A graph may come from anyone. Its tensors name files to map into memory, and ONNX Runtime's own
words for a damaged file are about protobuf and offsets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path, PureWindowsPath
from typing import Any

from slimgpt.checkpoint.onnx_export import GRAPH
from slimgpt.checkpoint.safety import inside
from slimgpt.errors import IntegrityError, missing_extra
from slimgpt_serve.onnx_runtime.installed import FEATURE

AGAIN = "write it again with slimgpt export onnx"
_LARGEST_GRAPH_BYTES = 256 * 2**20  # weights stand beside it; a graph is some hundred kB
_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_LONGEST_NAME = 255
BYTE = 2  # onnx.TensorProto.UINT8
_BITS = {1: 32, 2: 8, 3: 8, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 16: 16, 21: 4, 22: 4}
"""Of the number formats (onnx.TensorProto.DataType) that a language model's weights have."""


def read_graph(directory: Path) -> Any:
    """The onnx.ModelProto of an export, without its weights.

    Raises:
        IntegrityError: it is missing, damaged, has operators from elsewhere, functions or loops
            (which may have no end), or its weights are not whole in files of the directory.
        EnvironmentProblem: the package onnx is missing.
    """
    path = directory / GRAPH
    if not (path.exists() or path.is_symlink()):
        raise IntegrityError(f"{directory} has no {GRAPH}: {AGAIN}")
    inside(directory, path)
    model = _parsed(path)
    _check_operators(path, model)
    for tensor in _tensors(model):
        if tensor.external_data:
            _check_data(directory, tensor)
    return model


def weight_bytes(model: Any) -> int:
    """Bytes of all weights, in the file and beside it."""
    return sum(_bytes(tensor) or 0 for tensor in _tensors(model))


def copying_graph() -> bytes:
    """A graph that copies its input ``source``, bytes, to its output ``target``."""
    from onnx import helper

    source, target = (
        helper.make_tensor_value_info(name, BYTE, ["size"]) for name in ("source", "target")
    )
    node = helper.make_node("Identity", ["source"], ["target"])
    graph = helper.make_graph([node], "copy", [source], [target])
    imports = [helper.make_opsetid("", 23)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return bytes(model.SerializeToString())


def _parsed(path: Path) -> Any:
    try:
        import onnx
    except ModuleNotFoundError:
        raise missing_extra(FEATURE, "onnx") from None
    try:
        size = path.stat().st_size
        if size > _LARGEST_GRAPH_BYTES:
            raise IntegrityError(
                f"{path} has {size} bytes, beyond any graph with its weights beside it: {AGAIN}"
            )
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
    except OSError as reason:
        raise IntegrityError(f"{path} can't be read: {reason.strerror}") from None
    except IntegrityError:
        raise
    except Exception as reason:  # noqa: BLE001 - each protobuf backend has errors of its own
        raise IntegrityError(f"{path} is truncated or damaged ({reason}): {AGAIN}") from None
    if not model.graph.node:
        raise IntegrityError(f"{path} holds no graph: {AGAIN}")
    return model


def _nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Every node, those of subgraphs too."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _check_operators(path: Path, model: Any) -> None:
    if model.functions:
        raise IntegrityError(f"{path} has functions, which no export of slimgpt has: {AGAIN}")
    for node in _nodes(model.graph.node):
        if node.domain not in _DOMAINS:
            raise IntegrityError(
                f"{path} has an operator {node.op_type[:80]} of {node.domain[:80]!r}: only those "
                f"of ONNX and com.microsoft are run; {AGAIN}"
            )
        # ONNX Runtime can't be interrupted, and may run a loop while it loads.
        if node.op_type != "If" and any(x.HasField("g") or x.graphs for x in node.attribute):
            raise IntegrityError(
                f"{path} has a loop ({node.op_type[:80]}), which no export of slimgpt has: {AGAIN}"
            )


def _tensors(model: Any) -> Iterator[Any]:
    """Every constant of the model: initializers, and those inside attributes of nodes."""
    yield from _of_graph(model.graph)
    for node in _nodes(model.graph.node):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _check_data(directory: Path, tensor: Any) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _data_path(directory, entries.get("location", ""))
    try:
        offset, needed = int(entries.get("offset") or 0), _bytes(tensor)
        length = int(entries.get("length") or needed or 0)
    except ValueError:
        raise IntegrityError(
            f"{directory}/{GRAPH}: {tensor.name} has no numbers for offset and length: {AGAIN}"
        ) from None
    if offset < 0 or length < (needed or 0):
        raise IntegrityError(
            f"{directory}/{GRAPH}: {tensor.name} needs {needed} bytes and is said to have "
            f"{length} at {offset}: {AGAIN}"
        )
    size = path.stat().st_size
    if offset + length > size:
        raise IntegrityError(
            f"{path} is truncated: it has {size} bytes, and {tensor.name} ends at "
            f"{offset + length}; copy it again, or {AGAIN}"
        )


def _data_path(directory: Path, location: str) -> Path:
    windows = PureWindowsPath(location)  # knows both kinds of slashes, and drives
    outside = windows.root or windows.drive or ".." in windows.parts
    if outside or "\0" in location or not 0 < len(location) <= _LONGEST_NAME:
        raise IntegrityError(
            f"{directory}/{GRAPH} keeps its weights in {location[:80]!r}, a path outside the "
            f"directory: {AGAIN}"
        )
    path = directory / location
    if not (path.exists() or path.is_symlink()):
        raise IntegrityError(
            f"{directory} lacks {location}, which holds the weights of {GRAPH}: copy both files"
        )
    return inside(directory, path)


def _bytes(tensor: Any) -> int | None:
    """Of a tensor's values; None for a number format that weights don't have."""
    bits = _BITS.get(tensor.data_type)
    if bits is None or any(size < 0 for size in tensor.dims):
        return None
    return int((prod(tensor.dims) * bits + 7) // 8)
