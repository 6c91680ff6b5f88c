"""The line of /metrics that tells which artefact is served.

``slimgpt serve`` knows it and hands it on in the environment; vLLM's processes publish it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

VARIABLE = "SLIMGPT_BUILD_INFO"
METRIC = "slimgpt_build_info"
LABELS = ("version", "model", "digest")


def environment(version: str, model: str, digest: str) -> dict[str, str]:
    """What the server's environment needs.

    Args:
        version: of slimgpt.
        model: name or path of the checkpoint.
        digest: of its files.
    """
    return {VARIABLE: json.dumps({"version": version, "model": model, "digest": digest})}


def publish(environ: Mapping[str, str] = os.environ) -> None:
    """Adds the gauge to this process's metrics, once, if the environment tells of an artefact."""
    from prometheus_client import REGISTRY, Gauge

    told = environ.get(VARIABLE)
    if not told or METRIC in REGISTRY._names_to_collectors:
        return
    gauge = Gauge(METRIC, "The artefact that is served.", LABELS, multiprocess_mode="mostrecent")
    gauge.labels(**json.loads(told)).set(1)
