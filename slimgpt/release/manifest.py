"""slimgpt.json: what a pruned checkpoint is and how it was made, with a digest of every file.

It is written last, so that its presence marks a complete checkpoint, and it holds nothing that
differs between two equal runs on one machine (no times, no paths).
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import slimgpt
from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.checkpoint.writer import file_digests, write_json
from slimgpt.planning import Plan

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


def write_manifest(
    directory: Path,
    *,
    source: dict[str, str],
    recipe: dict[str, Any],
    plan: Plan,
    quality: dict[str, Any],
    device: str,
) -> None:
    """Writes slimgpt.json over every other file of a finished checkpoint."""
    manifest = {
        "schema": SCHEMA,
        "slimgpt_version": slimgpt.__version__,
        "source": source,
        "recipe": recipe,
        "shape": plan.target.to_manifest(),
        "parameters": parameters(plan),
        "quality": quality,
        "environment": environment(device),
        "files": file_digests(directory),
    }
    write_json(directory / MANIFEST, manifest)


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, or None where it has none."""
    path = directory / MANIFEST
    return read_json(inside(directory, path)) if path.exists() else None
