"""slimgpt.json: what a pruned checkpoint is and how it was made, with a digest of every file.

It is written last, so that its presence marks a complete checkpoint, and it holds nothing that
differs between two equal runs on one machine (no times, no paths).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import slimgpt
from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import BOM, MANIFEST
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.checkpoint.writer import file_digests, write_json
from slimgpt.planning import Plan
from slimgpt.shape import ModelShape

SCHEMA = 1


def parameters(plan: Plan) -> dict[str, int]:
    """The ``parameters`` entry: all and decoder-only, before and after."""
    return {
        "before": plan.source.parameters,
        "after": plan.target.parameters,
        "decoder_before": plan.source.decoder_parameters,
        "decoder_after": plan.target.decoder_parameters,
    }


def environment(device: str) -> dict[str, str]:
    """Versions and hardware that the resulting bytes may depend on."""
    packages = {name: version(name) for name in ("torch", "transformers", "safetensors")}
    return {
        "python": platform.python_version(),
        **packages,
        "machine": platform.machine(),
        "device": device,
    }


def rounded(value: Any) -> Any:
    """Floats to five digits: further ones depend on the number of threads."""
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def describe(
    *,
    source: Mapping[str, Any],
    recipe: Mapping[str, Any],
    shape: ModelShape,
    counts: Mapping[str, int],
    quality: Mapping[str, Any],
    device: str,
    gates: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The manifest but for its ``files``: what the card and the bill of materials are made from.

    Args:
        source: name, digest and shape of the dense checkpoint.
        recipe: how it was made, with every default resolved.
        shape: of the result.
        counts: see :func:`parameters`.
        quality: what was measured.
        device: kind of device that computed.
        gates: their outcomes; None where the recipe has none.
    """
    return {
        "schema": SCHEMA,
        "slimgpt_version": slimgpt.__version__,
        "source": dict(source),
        "recipe": dict(recipe),
        "shape": shape.to_manifest(),
        "parameters": dict(counts),
        "quality": dict(quality),
        **({} if gates is None else {"gates": [dict(gate) for gate in gates]}),
        "environment": environment(device),
    }


def seal(directory: Path, manifest: Mapping[str, Any], *, bom: bool = False) -> None:
    """Writes slimgpt.json over every other file of a finished checkpoint.

    Args:
        directory: holds everything else, the card included; each file is read once.
        manifest: as :func:`describe` makes it.
        bom: also write a bill of materials, which the manifest then covers.
    """
    files = file_digests(directory)
    if bom:
        from slimgpt.release.bom import write_bom

        write_bom(directory, directory / BOM, {**manifest, "files": files})
        files = dict(sorted({**files, BOM: file_sha256(directory / BOM)}.items()))
    write_json(directory / MANIFEST, {**manifest, "files": files})


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, or None where it has none."""
    path = directory / MANIFEST
    return read_json(inside(directory, path)) if path.exists() else None
