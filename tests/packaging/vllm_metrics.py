"""The metrics of vLLM that ours are built on, and what its source declares."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from slimgpt_serve.build_info import METRIC

KNOWN = {
    "vllm:generation_tokens": "counter",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:num_preemptions": "counter",
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:prefix_cache_hits": "counter",
    "vllm:prefix_cache_queries": "counter",
    "vllm:prompt_tokens": "counter",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_success": "counter",
    "vllm:request_time_per_output_token_seconds": "histogram",
    "vllm:spec_decode_num_accepted_tokens": "counter",
    "vllm:spec_decode_num_draft_tokens": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
}
"""Those that we use and what each is, as vLLM 0.32.0 declares them."""
OURS = {METRIC}

_SUFFIXES = {
    "gauge": ("",),
    "counter": ("_total",),
    "histogram": ("_bucket", "_count", "_sum"),
}
_NAME = re.compile(r"\b(?:vllm:|slimgpt_)\w+")


def series() -> set[str]:
    """The names that a scrape can hold: Prometheus clients add suffixes by kind."""
    return OURS | {name + end for name, kind in KNOWN.items() for end in _SUFFIXES[kind]}


def used(expression: str) -> set[str]:
    """The metrics that a PromQL expression names, but for those of Prometheus itself."""
    return set(_NAME.findall(expression))


def declared(vllm: Path) -> dict[str, str]:
    """What each metric is by the source of an installed vLLM.

    A metric is made by a call with its name, ``self._gauge_cls(name=...)``; those of speculative
    decoding by one call in a loop over (name, description).
    """
    found: dict[str, str] = {}
    for path in (vllm / "v1/metrics/loggers.py", vllm / "v1/spec_decode/metrics.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found.update(_made_by(node))
    return found


def _made_by(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        kind = re.fullmatch(r"_(gauge|counter|histogram)_cls", node.func.attr)
        for keyword in node.keywords if kind else ():
            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                assert kind
                yield str(keyword.value.value), kind[1]
    elif isinstance(node, ast.Tuple) and node.elts and isinstance(node.elts[0], ast.Constant):
        name = node.elts[0].value
        if isinstance(name, str) and name.startswith("vllm:"):
            yield name, "counter"
