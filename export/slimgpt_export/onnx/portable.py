"""The portable graph: what transformers computes, exported by torch, in standard operators alone.

Slower to make and to run than what :mod:`slimgpt_export.onnx.build` writes, it is for runtimes that
lack the operators of ONNX Runtime, and for models that the graph builder does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import slimgpt
from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import UsageError, missing_extra
from slimgpt.evaluate.quiet import quiet
from slimgpt_export.onnx.portable_cache import Caches, CacheShape, Decoder, read_caches
from slimgpt_export.onnx.portable_graph import OPSET, trace, write
from slimgpt_export.onnx.portable_model import freeze_rope, load_for_export
from slimgpt_export.onnx.precision import Precision
from slimgpt_serve.onnx_runtime.artefact import CONCATENATED, SCHEMA


@dataclass(frozen=True, slots=True)
class Portable:
    """What was written.

    Attributes:
        caches: widths of ``past_key_values.{i}``, in order.
        vocab_size: logits of a position.
        context_length: most tokens of a text; None where the config does not say.
        dtype: of logits and caches, as torch spells it.
        opset: of the standard operators.
        architecture: class of transformers.
    """

    caches: tuple[CacheShape, ...]
    vocab_size: int
    context_length: int | None
    dtype: str
    opset: int
    architecture: str

    @property
    def head_dim(self) -> int | None:
        """Values of a key and of a value, where they are as many in all caches."""
        sizes = {size for x in self.caches for size in (x.key_dim, x.value_dim)}
        return sizes.pop() if len(sizes) == 1 else None


def require_exporter() -> None:
    """Refuses to begin without the package that torch's exporter needs.

    Raises:
        EnvironmentProblem: naming the extra.
    """
    if find_spec("onnxscript") is None:
        raise missing_extra("slimgpt export onnx --portable", "onnx")


def require_whole(precision: Precision) -> None:
    """Refuses a precision that this route has no operators for.

    Raises:
        UsageError: naming the way out.
    """
    if precision.quantized:
        raise UsageError(
            f"--portable --precision {precision.name}: standard operators hold weights as fp32, "
            "fp16 or bf16: give one of these, or leave out --portable"
        )


def write_portable(
    directory: Path,
    precision: Precision,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Portable:
    """Writes the graph and its weights, and has onnx check them.

    Args:
        directory: a checkpoint of our families, or of another causal LM that transformers has.
        precision: ``fp32``, ``fp16`` or ``bf16``: what weights are rounded to.
        folder: gets ``model.onnx`` and ``model.onnx.data``.
        dtype: what the graph holds and computes in, where that is to be wider than the precision:
            ONNX Runtime has no bfloat16 for CPUs, and rounded weights can be checked in float32.
        metadata: for the graph's ``metadata_props``; what is known of the graph stands above it.

    Raises:
        EnvironmentProblem: onnxscript is not installed.
        UsageError: the precision or the model is not for this route.
        IntegrityError: the checkpoint is damaged.
    """
    require_whole(precision)
    require_exporter()
    stored = getattr(torch, precision.activations)
    with quiet():
        model, meta = load_for_export(directory, stored)
        if dtype and dtype != stored:
            model = model.to(dtype)
        freeze_rope(model)
        caches = read_caches(model)
        portable = _described(model, caches)
        graph = trace(Decoder(model, caches), caches, dtype or stored)
        graph.metadata_props.update(dict(metadata or {}) | _metadata(portable, precision, meta))
        write(graph, folder)
    return portable


def _described(model: Any, caches: Caches) -> Portable:
    context = getattr(model.config, "max_position_embeddings", None)
    return Portable(
        caches=caches.shapes,
        vocab_size=caches.vocab_size,
        context_length=context if isinstance(context, int) and context > 0 else None,
        dtype=str(model.dtype).removeprefix("torch."),
        opset=OPSET,
        architecture=type(model).__name__,
    )


def _metadata(portable: Portable, precision: Precision, meta: ConfigOnly | None) -> dict[str, str]:
    """What a runtime reads; of a family that is none of ours, the shape is that of the caches."""
    foreign = {"layers": [{"kv_heads": x.kv_heads} for x in portable.caches]}
    head_dim = portable.head_dim
    if head_dim is None and meta and not portable.caches:
        head_dim = meta.shape.head_dim
    entries = {
        "schema": SCHEMA,
        "version": slimgpt.__version__,
        "precision": precision.name,
        "shape": json.dumps(meta.shape.to_manifest() if meta else foreign),
        "head_dim": head_dim,
        "context_length": portable.context_length,
        "cache": CONCATENATED,
    }
    return {f"slimgpt.{name}": str(value) for name, value in entries.items() if value is not None}
