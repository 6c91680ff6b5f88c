"""The packages of the extras [onnx] and [onnx-gpu], asked for before anything is done."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec

from slimgpt.errors import missing_extra
from slimgpt_serve.onnx_runtime.installed import require_one_runtime


def require_packages() -> None:
    """Refuses to begin where a package is missing, or two of ONNX Runtime overwrite each other.

    Raises:
        EnvironmentProblem: with what to install.
    """
    if find_spec("onnx") is None or find_spec("onnx_ir") is None:
        raise missing_extra("slimgpt export onnx", "onnx")
    require_one_runtime()


def versions() -> dict[str, str]:
    """Of what decides the bytes of the export."""
    return {"onnx_ir": version("onnx-ir")}
