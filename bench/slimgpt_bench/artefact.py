"""What is measured: a checkpoint or an ONNX export, told by its digest, its widths and its quality.

Read from config, headers and manifest: no weights, no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.onnx_export import GRAPH, is_onnx, read_onnx
from slimgpt.checkpoint.reader import BYTES_PER_VALUE, MANIFEST, read_config, read_headers
from slimgpt.errors import IntegrityError
from slimgpt.release.manifest import read_manifest
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_serve.preflight.artefact import artefact_digest, read_artefact

_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tekken.json")


@dataclass(frozen=True, slots=True)
class Artefact:
    """A model directory that has been checked.

    Attributes:
        name: last part of its path.
        directory: where it lies.
        form: ``checkpoint`` or ``onnx``.
        digest: as a server tells it in ``slimgpt_build_info``.
        shape: widths; of an ONNX graph, the model's and not those that zeros fill up.
        dense_shape: of what it was pruned from, where its manifest tells.
        dtype: that its weights are stored in, as torch spells it; of an export, its precision.
        cache_dtype: of its KV cache where nothing else is asked for.
        kv_bytes_per_token: of all layers together, in ``cache_dtype``, with what kernels fill up.
        weight_bytes: of the files that hold its weights.
        context_length: most positions; None where the config does not say.
        quality: the manifest's entry; empty without one.
        tokenizer_digest: of the tokenizer's files; None without any.
    """

    name: str
    directory: Path
    form: Literal["checkpoint", "onnx"]
    digest: str
    shape: ModelShape
    dense_shape: ModelShape | None
    dtype: str
    cache_dtype: str
    kv_bytes_per_token: int
    weight_bytes: int
    context_length: int | None
    quality: Mapping[str, Any]
    tokenizer_digest: str | None

    def to_json(self) -> dict[str, Any]:
        """For a result: everything but the place."""
        return {
            "name": self.name,
            "form": self.form,
            "digest": self.digest,
            "shape": self.shape.to_manifest(),
            "dense_shape": self.dense_shape.to_manifest() if self.dense_shape else None,
            "dtype": self.dtype,
            "cache_dtype": self.cache_dtype,
            "parameters": self.shape.parameters,
            "weight_bytes": self.weight_bytes,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "context_length": self.context_length,
            "quality": dict(self.quality),
            "tokenizer_digest": self.tokenizer_digest,
        }


def describe(directory: Path) -> Artefact:
    """Reads a model directory.

    Raises:
        IntegrityError: it is damaged, its parts disagree, or its quality is no finite number.
        UsageError: the architecture or the number format is not supported.
        EnvironmentProblem: it is an export, and the package onnx is missing.
    """
    manifest = read_manifest(directory) or {}
    form, shape, dtype, cache, kv, size = (
        _export(directory) if is_onnx(directory) else _checkpoint(directory)
    )
    return Artefact(
        name=directory.resolve().name,
        directory=directory,
        form=form,
        digest=_digest(directory, form),
        shape=shape,
        dense_shape=_dense(manifest, shape),
        dtype=dtype,
        cache_dtype=cache,
        kv_bytes_per_token=kv,
        weight_bytes=size,
        context_length=read_config(directory, quantized=True).context_length,
        quality=_quality(manifest, directory),
        tokenizer_digest=tokenizer_digest(directory),
    )


_Read = tuple[Literal["checkpoint", "onnx"], ModelShape, str, str, int, int]


def _checkpoint(directory: Path) -> _Read:
    found = read_artefact(directory.name, directory)
    where, _ = read_headers(directory)
    size = sum(path.stat().st_size for path in set(where.values()))
    dtype = found.meta.dtype
    stored = dtype if found.packed_bytes is None else "quantised"
    kv = found.shape.kv_bytes_per_token(BYTES_PER_VALUE[dtype])
    return "checkpoint", found.shape, stored, dtype, kv, size


def _export(directory: Path) -> _Read:
    found = read_onnx(directory)
    size = sum(path.stat().st_size for path in directory.glob(f"{GRAPH}*"))
    shape = read_config(directory, quantized=True).shape
    return "onnx", shape, found.precision, found.dtype, found.kv_bytes(1, 1), size


def _quality(manifest: Mapping[str, Any], directory: Path) -> Mapping[str, Any]:
    """The manifest's entry, fit for a document.

    Raises:
        IntegrityError: it holds NaN or infinity, which Python reads and JSON does not have.
    """
    quality = manifest.get("quality")
    try:
        json.dumps(quality, allow_nan=False)
    except ValueError:
        raise IntegrityError(
            f"{directory / MANIFEST} holds NaN or infinity under quality: a damaged manifest; take "
            "the checkpoint from its source again"
        ) from None
    return quality if isinstance(quality, dict) else {}


def _digest(directory: Path, form: str) -> str:
    if form == "onnx" and not (directory / MANIFEST).is_file():
        return file_sha256(directory / GRAPH)
    return artefact_digest(directory)


def _dense(manifest: Mapping[str, Any], shape: ModelShape) -> ModelShape | None:
    """The shape of the dense model: its layers, and what pruning leaves as it is."""
    source = manifest.get("source")
    told = source.get("shape") if isinstance(source, dict) else None
    try:
        layers = tuple(LayerShape(**layer) for layer in told["layers"]) if told else ()
    except (TypeError, KeyError, ValueError):
        return None
    return shape.with_layers(layers) if layers else None


def tokenizer_digest(directory: Path) -> str | None:
    """SHA-256 over the tokenizer's files, names included; None where there are none."""
    whole = hashlib.sha256()
    found = [directory / name for name in _TOKENIZER if (directory / name).is_file()]
    for path in found:
        whole.update(f"{file_sha256(path)}  {path.name}\n".encode())
    return whole.hexdigest() if found else None
