"""Telling an ONNX export from a checkpoint. What is in one, the runtime's own reader knows."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

GRAPH = "model.onnx"
_FILES = (GRAPH, f"{GRAPH}.data")


def is_onnx(directory: Path) -> bool:
    """Whether a directory is an ONNX export; one with safetensors beside it is a checkpoint."""
    if any(directory.glob("*.safetensors")):
        return False
    return any((directory / x).exists() or (directory / x).is_symlink() for x in _FILES)


def read_onnx(directory: Path) -> Any:
    """The checked export, as ``slimgpt_serve.onnx_runtime.artefact.OnnxArtefact``.

    Raises:
        IntegrityError: it is damaged or not one of ours.
        EnvironmentProblem: the package onnx is missing.
    """
    return import_module("slimgpt_serve.onnx_runtime.artefact").read_artefact(directory)
