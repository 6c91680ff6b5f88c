"""Writes what operates a plan: alert rules and autoscalers, each saying what it follows from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from slimgpt.checkpoint.writer import publish
from slimgpt.destination import require_writable
from slimgpt.errors import UsageError
from slimgpt_bench.capacity.alerts import make_rules
from slimgpt_bench.capacity.autoscaling import (
    adapter_values,
    horizontal_autoscaler,
    scaled_object,
)
from slimgpt_bench.capacity.number import plain
from slimgpt_bench.capacity.server_metrics import metrics_of
from slimgpt_bench.capacity.side import Side, Terms

_WIDTH = 100


def require_free(directory: Path) -> None:
    """Refuses a ``--write`` that exists or can't be made.

    Raises:
        UsageError: with what stands in the way.
    """
    if directory.name in ("", "..") or directory.exists() or directory.is_symlink():
        raise UsageError(f"--write {directory} exists: give a directory that does not")
    require_writable(directory.parent, f"--write {directory}")


def write_operations(directory: Path, side: Side, terms: Terms) -> list[str]:
    """Writes all files, whole or not at all; equal plans give equal bytes.

    Args:
        directory: must not exist.
        side: the model's plan; must have one.
        terms: that it was made under.

    Returns:
        names of the files.
    """
    require_free(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for name, text in _files(side, terms).items():
            (work / name).write_text(text, "utf-8")
        work.chmod(0o755)  # made for its owner alone
        publish(work, directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return sorted(path.name for path in directory.iterdir())


def _files(side: Side, terms: Terms) -> dict[str, str]:
    rules = make_rules(side, terms.slo)
    group = {"groups": [{"name": "slimgpt-slo", "rules": list(rules.rules)}]}
    head = _head(side, terms)
    found = {
        "alerts.yaml": _text(group, [*head, *rules.notes]),
        "keda-scaled-object.yaml": _text(
            scaled_object(side, terms),
            [
                *head,
                "Set serverAddress to your Prometheus. Not together with the other autoscaler.",
            ],
        ),
    }
    scaler = horizontal_autoscaler(side, terms)
    if scaler:
        needs = "Needs prometheus-adapter with the values beside it. Not together with KEDA's."
        found["horizontal-pod-autoscaler.yaml"] = _text(scaler, [*head, needs])
        values = "Values for the Helm chart prometheus-community/prometheus-adapter."
        found["prometheus-adapter-values.yaml"] = _text(adapter_values(side), [values])
    return found


def _head(side: Side, terms: Terms) -> list[str]:
    """What the files follow from."""
    rate = side.plan.per_replica_rps
    bounds = ", ".join(f"{k} {v:g}" for k, v in terms.slo.to_json()["objectives"].items())
    return [
        f"Made by slimgpt capacity for {metrics_of(side.replica.engine).server}.",
        f"SLO {terms.slo.digest[:12]}: {bounds}, for {terms.slo.attainment:g} of all requests.",
        f"Plan: {plain(side.plan.planned.value or 0.0)} replicas, {terms.margins.spares} of them "
        f"spare, each for {plain(rate.value or 0.0)} requests/s ({rate.label}).",
    ]


def _text(document: Mapping[str, Any], comments: list[str]) -> str:
    body = yaml.safe_dump(dict(document), sort_keys=False, width=_WIDTH, allow_unicode=True)
    return "".join(f"# {line}\n" for line in comments) + body
