"""``slimgpt inspect``: what a checkpoint is, from its config, headers and manifest. No torch."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Group
from rich.text import Text

from slimgpt.checkpoint.locate import locate
from slimgpt.checkpoint.onnx_export import is_onnx, read_onnx
from slimgpt.checkpoint.quantized import Quantized, is_quantized, read_quantized
from slimgpt.checkpoint.reader import MANIFEST, Checkpoint, read_config
from slimgpt.commands.console import Console, accepted_everywhere, common
from slimgpt.commands.shapes import layer_table, shape_document, totals_table
from slimgpt.errors import IntegrityError
from slimgpt.resources import human_bytes


@click.command()
@click.argument("model")
@accepted_everywhere("seed", "device", "dtype")
@common
def inspect(console: Console, model: str) -> None:
    """Show the shapes of MODEL, and how it was made if slimgpt made it."""
    from slimgpt.release.manifest import read_manifest

    directory = locate(model)
    exported = read_onnx(directory) if is_onnx(directory) else None
    quantized = read_quantized(directory) if not exported and is_quantized(directory) else None
    checkpoint = None if exported else quantized or Checkpoint(directory)
    meta = checkpoint.meta if checkpoint else read_config(directory)
    files = checkpoint.files if checkpoint else sorted(directory.glob("*.onnx*"))
    manifest = read_manifest(meta.directory)
    described = {k: v for k, v in (manifest or {}).items() if k not in ("files", "shape")}
    document: dict[str, Any] = {
        "model": model,
        "model_type": meta.config.get("model_type"),
        "dtype": meta.dtype,
        "uniform": meta.shape.is_uniform,
        **shape_document(meta.shape, meta.bytes_per_value),
        "quantization": quantized.to_json() if quantized else None,
        "onnx": _exported_document(exported) if exported else None,
        "weight_files": [str(p.relative_to(meta.directory)) for p in files],
        "manifest": described or None,
    }
    lines = [f"{model}: {document['model_type']}, {meta.dtype}, weight files: {len(files)}"]
    column = "this model"
    if quantized:
        column = f"as {meta.dtype}"
        document["totals"]["weight_bytes"] = quantized.weight_bytes
        lines.append(_packed(quantized))
    if exported:
        column = f"its source, {meta.dtype}"
        document["totals"]["weight_bytes"] = exported.weight_bytes
        lines.append(_exported(exported))
    if manifest:
        try:
            lines += _provenance(manifest)
        except (TypeError, AttributeError, KeyError, ZeroDivisionError) as reason:
            raise IntegrityError(
                f"{meta.directory / MANIFEST} is no manifest of slimgpt: {reason}"
            ) from None
    tables = (
        layer_table(meta.shape),
        totals_table([(column, meta.shape)], meta.bytes_per_value),
    )
    console.result(document, Group(*tables, Text("\n".join(lines))))


def _packed(quantized: Quantized) -> str:
    """What the table of totals leaves out: it has the model as it was before."""
    activations = quantized.activations or "not quantised"
    return (
        f"quantised ({quantized.method}): weights {quantized.weights}, activations {activations}; "
        f"{human_bytes(quantized.weight_bytes)} on disk"
    )


def _exported_document(exported: Any) -> dict[str, Any]:
    return {
        "precision": exported.precision,
        "activations": exported.dtype,
        "cache": exported.cache,
        "head_dim": exported.head_dim,
        "context_length": exported.context_length,
        "weight_bytes": exported.weight_bytes,
    }


def _exported(exported: Any) -> str:
    return (
        f"an ONNX graph: {exported.precision} weights, {exported.dtype} activations, context "
        f"{exported.context_length:,}; {human_bytes(exported.weight_bytes)} on disk"
    )


def _provenance(manifest: dict[str, Any]) -> list[str]:
    """The manifest in a few lines; whatever it lacks is left out."""
    recipe, source = manifest.get("recipe", {}), manifest.get("source", {})
    counts = manifest.get("parameters", {})
    lines = [
        f"pruned by slimgpt {manifest.get('slimgpt_version')} from {source.get('name')} "
        f"(sha256 {str(source.get('digest'))[:16]}...)",
        "recipe: " + ", ".join(f"{k} {v}" for k, v in recipe.items() if isinstance(v, str | float)),
    ]
    if counts.get("decoder_before"):
        removed = 1 - counts["decoder_after"] / counts["decoder_before"]
        lines.append(f"removed: {removed:.2%} of the decoder's {counts['decoder_before']:,}")
    if recovery := recipe.get("recovery"):
        data = ", ".join(recovery["data"]["sources"])
        lines.append(f"recovered on {data} with LoRA of rank {recovery['rank']}")
    if gates := manifest.get("gates"):
        met = sum(bool(gate["passed"]) for gate in gates)
        lines.append(f"gates: {met} of {len(gates)} met")
    return lines
