"""The metrics that servers tell, as alerts and autoscalers have to name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Objective = Literal["ttft_s", "tpot_s", "e2e_s"]

Seconds = tuple[float, ...]

_FIRST_TOKEN: Seconds = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0)
_FIRST_TOKEN += (2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
_TOKEN: Seconds = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
_TOKEN += (7.5, 10.0, 20.0, 40.0, 80.0)
_REQUEST: Seconds = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0)
_REQUEST += (60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """What one kind of server tells.

    Attributes:
        server: its name, for people.
        prefix: of every metric.
        buckets: upper ends of the histogram of each objective, without infinity.
        failed: requests that ended in an error of the server, as PromQL without a range.
        ended: all requests that ended, likewise.
    """

    server: str
    prefix: str
    buckets: Mapping[Objective, Seconds]
    failed: str
    ended: str

    def histogram(self, objective: Objective) -> str:
        """Name of the histogram of an objective."""
        return f"{self.prefix}{HISTOGRAMS[objective]}"

    def bucket(self, objective: Objective, bound_s: float) -> float | None:
        """The largest bucket that does not reach beyond a bound: its requests surely meet it."""
        return max((x for x in self.buckets[objective] if x <= bound_s), default=None)

    @property
    def waiting(self) -> str:
        return f"{self.prefix}num_requests_waiting"

    @property
    def kv_usage(self) -> str:
        return f"{self.prefix}kv_cache_usage_perc"


HISTOGRAMS: Mapping[Objective, str] = {
    "ttft_s": "time_to_first_token_seconds",
    "tpot_s": "request_time_per_output_token_seconds",
    "e2e_s": "e2e_request_latency_seconds",
}

VLLM = ServerMetrics(
    "vLLM 0.32 and 0.33",
    "vllm:",
    {"ttft_s": _FIRST_TOKEN, "tpot_s": _TOKEN, "e2e_s": _REQUEST},
    'vllm:request_success_total{finished_reason="error"}',
    "vllm:request_success_total",
)
ONNX = ServerMetrics(
    "slimgpt serve on ONNX Runtime",
    "slimgpt_",
    {
        "ttft_s": _FIRST_TOKEN,
        "tpot_s": (0.001, 0.0025, 0.005, *_TOKEN),
        "e2e_s": (0.05, 0.1, 0.2, *_REQUEST),
    },
    'slimgpt_requests_total{outcome=~"busy|failed"}',
    'slimgpt_requests_total{outcome=~"ok|busy|failed"}',
)


def metrics_of(engine: str) -> ServerMetrics:
    """Of the server that serves an artefact: ``vllm`` or ``onnx``."""
    return ONNX if engine == "onnx" else VLLM
