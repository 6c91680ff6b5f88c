"""Load results as llm-d benchmark reports, schema 0.2.1: one for each level.

Written from github.com/llm-d/llm-d-benchmark at 8bc9f1d, ``llmdbenchmark/analysis/
benchmark_report/schema_v0_2.py`` and ``schema_v0_2_1.py``. Their statistics need a mean, so they
are of the raw requests; times run from the scheduled send, as all of ours do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import yaml

from slimgpt_bench.quantity import fewest

VERSION = "0.2.1"
_PERCENTS = (0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
_QUANTILES = {f"p{x}".replace(".", "p"): x / 100 for x in _PERCENTS}
_LATENCY = {
    "time_to_first_token": ("ttft_s", "s"),
    "time_per_output_token": ("tpot_s", "s/token"),
    "inter_token_latency": ("gaps_s", "s/token"),
    "request_latency": ("e2e_s", "s"),
}
_SHAPES = {"fixed": "fixed", "uniform": "uniform", "normal": "gaussian"}

Record = Mapping[str, Any]


def write_reports(directory: Path, document: Mapping[str, Any], requests: Sequence[Record]) -> None:
    """Writes ``llm-d.yaml``, or ``llm-d-0.yaml``, ``llm-d-1.yaml``... for several levels.

    Args:
        directory: to write to.
        document: a load result.
        requests: its raw records, as ``slimgpt_bench.load.record`` tells them.
    """
    count = len(document["levels"])
    for stage in range(count):
        name = "llm-d.yaml" if count == 1 else f"llm-d-{stage}.yaml"
        records = [x for x in requests if x["level"] == stage and x["phase"] == "measured"]
        text = yaml.safe_dump(report(document, stage, records), sort_keys=False)
        (directory / name).write_text(text, "utf-8")


def report(document: Mapping[str, Any], stage: int, records: Sequence[Record]) -> dict[str, Any]:
    """One report.

    Args:
        document: a load result.
        stage: number of the level.
        records: of the requests of that level.
    """
    level = document["levels"][stage]
    return {
        "version": VERSION,
        "run": _run(document, stage),
        "scenario": {"stack": [_server(document)], "load": _load(document, stage)},
        "results": {
            "request_performance": {
                "aggregate": {
                    "requests": _requests(level, records),
                    "latency": _latency(records),
                    "throughput": _throughput(level, records),
                }
            }
        },
    }


def _run(document: Mapping[str, Any], stage: int) -> dict[str, Any]:
    level = document["levels"][stage]
    experiment = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    problems = [*document["problems"], *level["problems"]]
    valid = document["valid"] and level["valid"]
    said = "valid" if valid else "INVALID"
    return {
        "uid": str(uuid5(NAMESPACE_URL, f"slimgpt:{experiment}:{stage}")),
        "eid": experiment,
        "time": {"duration": f"PT{level['duration_s']}S"},
        "description": "; ".join([f"slimgpt bench load, {said}", *problems]),
        "keywords": ["slimgpt", said.lower()],
    }


def _server(document: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked; as a generic component, since a client can't see accelerators."""
    target, artefact = document["target"], document["artefact"] or {}
    server = target.get("server") or {}
    standardized = {
        "kind": "generic",
        "tool": str(server.get("software") or server.get("engine") or "unknown"),
        "tool_version": str(server.get("version") or "unknown"),
        "model": {"name": str(target.get("model"))},
        "artefact_digest": artefact.get("digest"),
    }
    return {
        "metadata": {"label": "server", "cfg_id": _digest(target)},
        "standardized": standardized,
        "native": {"config": dict(target)},
    }


def _load(document: Mapping[str, Any], stage: int) -> dict[str, Any]:
    workload, offered = document["workload"], document["levels"][stage]["offered"]
    source = workload.get("source")
    kind = source.get("kind") if isinstance(source, Mapping) else None
    dataset = kind == "dataset" or workload.get("trace")
    standardized: dict[str, Any] = {
        "tool": "slimgpt",
        "tool_version": document["slimgpt_version"],
        "source": "random" if kind == "token ids" else "sampled" if dataset else "unknown",
        "stage": stage,
        "input_seq_len": _lengths(workload.get("prompt_tokens")),
        "output_seq_len": _lengths(workload.get("output_tokens")),
    }
    if offered.get("rate_rps"):
        standardized["rate_qps"] = float(offered["rate_rps"])
    if offered.get("concurrency"):
        standardized["concurrency"] = int(offered["concurrency"])
    native = {"load": document["load"], "workload": workload, "slo": document["slo"]}
    return {
        "metadata": {"cfg_id": workload["digest"]},
        "standardized": standardized,
        "native": {"args": {"command": document["command"]}, "config": native},
    }


def _lengths(told: Any) -> dict[str, Any]:
    if not isinstance(told, Mapping):
        return {"distribution": "other", "value": 0}
    shape = _SHAPES.get(str(told.get("kind")), "other")
    found: dict[str, Any] = {"distribution": shape, "value": told.get("mean", 0)}
    if shape == "gaussian":
        found["std_dev"] = told["parameters"][1]
    return found


def _requests(level: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    counts = level["requests"]
    found: dict[str, Any] = {
        "total": counts["sent"],
        "failures": counts["sent"] - counts["ok"],
        "input_length": _statistics(_values(records, "prompt_tokens"), "count"),
        "output_length": _statistics(_values(records, "output_tokens"), "count"),
    }
    return {k: v for k, v in found.items() if v is not None}


def _latency(records: Sequence[Record]) -> dict[str, Any]:
    found = {
        name: _statistics(_values(records, key), unit) for name, (key, unit) in _LATENCY.items()
    }
    return {k: v for k, v in found.items() if v is not None}


def _throughput(level: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    seconds = level["duration_s"]
    read = sum(_values(records, "prompt_tokens"))
    written = level["output_tokens_per_s"]
    return {
        "input_token_rate": {"units": "tokens/s", "mean": read / seconds if seconds else 0.0},
        "output_token_rate": {"units": "tokens/s", "mean": written},
        "request_rate": {"units": "queries/s", "mean": level["achieved_rps"]},
    }


def _values(records: Iterable[Record], key: str) -> list[float]:
    """Of all requests that were answered; a record may hold one value or several."""
    found: list[float] = []
    for record in records:
        value = record.get(key) if record["ok"] else None
        found += value if isinstance(value, list) else [] if value is None else [value]
    return found


def _statistics(values: list[float], unit: str) -> dict[str, Any] | None:
    """Percentiles only where there are enough values to tell them."""
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    told = {
        name: float(np.quantile(array, share))
        for name, share in _QUANTILES.items()
        if len(array) >= fewest(max(share, 1 - share))
    }
    spread = {"min": float(array.min()), "max": float(array.max()), "stddev": float(array.std())}
    return {"units": unit, "mean": float(array.mean()), **spread, **told}


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
