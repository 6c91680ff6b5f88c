"""What an ONNX export is, read from its files: geometry, precision, caches, end tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.onnx_export import GRAPH
from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.errors import IntegrityError
from slimgpt_serve.onnx_runtime.graph_file import AGAIN, read_graph, weight_bytes

SCHEMA = "1"
IN_PLACE, CONCATENATED = "in_place", "concatenated"
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
_MOST_TOKENS = 2**24  # of a vocabulary: some dozen times those of today
_DTYPES = {1: "float32", 10: "float16", 16: "bfloat16"}  # of onnx.TensorProto.DataType
_PAST = re.compile(r"past_key_values\.(\d{1,5})\.(key|value)")
_KEYS = ("version", "source", "precision", "shape", "head_dim", "context_length", "cache")
_END_TOKENS = ("genai_config.json", "generation_config.json", "config.json")


@dataclass(frozen=True, slots=True)
class OnnxArtefact:
    """A checked ONNX export.

    Attributes:
        directory: of the export.
        model: the graph's file.
        version: of slimgpt that wrote it.
        source: SHA-256 of the checkpoint that it was made of.
        precision: of the weights: fp32, fp16, bf16, int8 or int4.
        dtype: of caches and logits, as torch spells it.
        shape: widths, as the ``shape`` entry of slimgpt.json.
        head_dim: of the caches; may be wider than the model's, filled up with zeros.
        kv_heads: of each layer that has attention, in order.
        vocabulary: rows of the logits.
        context_length: most positions the graph can tell apart.
        eos: ids of the tokens that end a text; may be empty.
        cache: ``in_place`` (past and present may be one buffer) or ``concatenated``.
        weight_bytes: of all weights.
    """

    directory: Path
    model: Path
    version: str
    source: str
    precision: str
    dtype: str
    shape: Mapping[str, Any]
    head_dim: int
    kv_heads: tuple[int, ...]
    vocabulary: int
    context_length: int
    eos: frozenset[int]
    cache: str
    weight_bytes: int

    def kv_bytes(self, capacity: int, slots: int) -> int:
        """Memory of keys and values for ``slots`` sequences of up to ``capacity`` tokens."""
        values = 2 * self.head_dim * sum(self.kv_heads) * capacity * slots
        return values * ELEMENT_BYTES[self.dtype]


def read_artefact(directory: Path) -> OnnxArtefact:
    """Reads and checks an export; nothing of it is run.

    Raises:
        IntegrityError: files are missing, damaged, lead out of the directory or contradict each
            other, or the graph was not written by ``slimgpt export onnx``.
        EnvironmentProblem: the package onnx is missing.
    """
    model = read_graph(directory)
    path = directory / GRAPH
    _require_unchanged(directory)
    told = _metadata(path, model)
    dtype, vocabulary = _logits(path, model)
    kv_heads, head_dim = _caches(path, model, dtype)
    shape = _shape(path, told["shape"])
    expected = tuple(x["kv_heads"] for x in shape["layers"] if x["kv_heads"])
    if kv_heads != expected or (kv_heads and str(head_dim) != told["head_dim"]):
        raise IntegrityError(
            f"{path} has caches of {list(kv_heads)} KV heads, and its metadata says "
            f"{list(expected)}, each of {told['head_dim']}: {AGAIN}"
        )
    return OnnxArtefact(
        directory=directory,
        model=path,
        version=told["version"],
        source=told["source"],
        precision=told["precision"],
        dtype=dtype,
        shape=shape,
        head_dim=head_dim,
        kv_heads=kv_heads,
        vocabulary=vocabulary,
        context_length=_context_length(path, told["context_length"]),
        eos=_end_tokens(directory, vocabulary),
        cache=told["cache"],
        weight_bytes=weight_bytes(model),
    )


def _require_unchanged(directory: Path) -> None:
    """Refuses a graph that is not the one its manifest lists; the weights, ``verify`` reads."""
    path = directory / MANIFEST
    if not (path.exists() or path.is_symlink()):
        return
    files = read_json(inside(directory, path)).get("files")
    listed = files.get(GRAPH) if isinstance(files, dict) else None
    if listed is not None and listed != file_sha256(directory / GRAPH):
        raise IntegrityError(
            f"{directory / GRAPH} is not the one that {MANIFEST} lists: it was changed since it "
            f"was exported; {AGAIN}"
        )


def _metadata(path: Path, model: Any) -> dict[str, str]:
    entries = {entry.key: entry.value for entry in model.metadata_props}
    schema = entries.get("slimgpt.schema")
    if schema is None:
        raise IntegrityError(
            f"{path} was not written by slimgpt export onnx (it lacks slimgpt.schema): only such "
            "graphs are run"
        )
    if schema != SCHEMA:
        raise IntegrityError(
            f"{path} has the layout {schema!r}, and this version of slimgpt reads {SCHEMA!r}: "
            "export it with this version, or run it with the one that wrote it"
        )
    missing = [key for key in _KEYS if f"slimgpt.{key}" not in entries]
    if missing:
        raise IntegrityError(f"{path} lacks slimgpt.{missing[0]} in its metadata: {AGAIN}")
    told = {key: entries[f"slimgpt.{key}"] for key in _KEYS}
    if told["cache"] not in (IN_PLACE, CONCATENATED):
        raise IntegrityError(
            f"{path} has slimgpt.cache {told['cache']!r}: known are {IN_PLACE} and {CONCATENATED}; "
            f"{AGAIN}"
        )
    if told["precision"] not in _PRECISIONS:  # it is shown to people
        raise IntegrityError(
            f"{path} has slimgpt.precision {told['precision'][:80]!r}: known are "
            f"{', '.join(_PRECISIONS)}; {AGAIN}"
        )
    return told


def _shape(path: Path, text: str) -> dict[str, Any]:
    try:
        shape = json.loads(text)
        if all(isinstance(x["kv_heads"], int) for x in shape["layers"]):
            return dict(shape)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise IntegrityError(f"{path} has no widths of layers in slimgpt.shape: {AGAIN}")


def _context_length(path: Path, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:19]) < 2**31):
        raise IntegrityError(f"{path} has slimgpt.context_length {text[:40]!r}: {AGAIN}")
    return int(text)


def _logits(path: Path, model: Any) -> tuple[str, int]:
    """Number format and width of the output ``logits``."""
    inputs = {value.name for value in model.graph.input}
    outputs = {value.name: value.type.tensor_type for value in model.graph.output}
    if "input_ids" not in inputs or "logits" not in outputs:
        raise IntegrityError(f"{path} has no input_ids or no logits: {AGAIN}")
    logits = outputs["logits"]
    dims = [d.dim_value for d in logits.shape.dim]
    if logits.elem_type not in _DTYPES or len(dims) != 3 or not 0 < dims[2] < _MOST_TOKENS:
        raise IntegrityError(f"{path} has logits of no known form: {AGAIN}")
    return _DTYPES[logits.elem_type], dims[2]


def _caches(path: Path, model: Any, dtype: str) -> tuple[tuple[int, ...], int]:
    """KV heads of each cached layer, and the head size of them all (0 without caches)."""
    found: dict[tuple[int, str], list[int]] = {}
    for value in model.graph.input:
        if match := _PAST.fullmatch(value.name):
            dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
            known = _DTYPES.get(value.type.tensor_type.elem_type) == dtype and len(dims) == 4
            found[int(match[1]), match[2]] = dims[1::2] if known else []
    count = len(found) // 2
    outputs = {value.name for value in model.graph.output}
    for layer in range(count):
        key, value = (found.get((layer, kind)) for kind in ("key", "value"))
        whole = {f"present.{layer}.key", f"present.{layer}.value"} <= outputs
        if not key or key != value or min(key) < 1 or key[1] != found[0, "key"][1] or not whole:
            raise IntegrityError(f"{path} has a cache {layer} of no known form: {AGAIN}")
    if len(found) != 2 * count:
        raise IntegrityError(f"{path} has {len(found)} caches of keys and values: {AGAIN}")
    heads = tuple(found[layer, "key"][0] for layer in range(count))
    return heads, found[0, "key"][1] if count else 0


def _end_tokens(directory: Path, vocabulary: int) -> frozenset[int]:
    """Ids that end a text, from the first file that there is."""
    for name in _END_TOKENS:
        path = directory / name
        if path.exists() or path.is_symlink():
            entries = read_json(inside(directory, path))
            model = entries.get("model") if name == _END_TOKENS[0] else entries
            found = model.get("eos_token_id") if isinstance(model, dict) else None
            # One beyond the vocabulary, as in some configs of strangers, never comes.
            return frozenset(i for i in _ids(path, found) if i < vocabulary)
    return frozenset()


def _ids(path: Path, found: object) -> list[int]:
    ids: list[Any] = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(i) is int and i >= 0 for i in ids):
        raise IntegrityError(f"{path}: eos_token_id {str(found)[:80]} is no id, and no list of ids")
    return ids
