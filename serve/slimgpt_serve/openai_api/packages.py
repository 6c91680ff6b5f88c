"""Whether the packages of the server are here; the only place that is asked before they load."""

from __future__ import annotations

from importlib.util import find_spec

from slimgpt.errors import missing_extra

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def require_server() -> None:
    """Refuses to go on without what an HTTP server needs.

    Raises:
        EnvironmentProblem: naming the extra.
    """
    if any(find_spec(name) is None for name in PACKAGES):
        raise missing_extra("slimgpt serve --engine onnx", "onnx")
