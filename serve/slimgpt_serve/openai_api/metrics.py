"""What /metrics tells, in Prometheus' form; alone imports prometheus_client.

Where vLLM has a metric of the same meaning ours has its name, with ``slimgpt_`` for ``vllm:``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slimgpt_serve.build_info import LABELS, METRIC

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN_S: tuple[float, ...] = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
)
_FIRST_TOKEN_S += (0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
_TOKEN_S: tuple[float, ...] = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
_TOKEN_S += (0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_REQUEST_S: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
_REQUEST_S += (15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine has to do at one moment.

    Attributes:
        running: answers under way.
        waiting: answers that wait for a slot.
        cached_tokens: whose keys and values are kept.
        capacity_tokens: that can be.
    """

    running: int
    waiting: int
    cached_tokens: int
    capacity_tokens: int


class HasLoad(Protocol):
    """What can be asked for its load at any time, from any thread."""

    def load(self) -> Load: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one answer.

    Attributes:
        queued_s: from its arrival until it had a slot.
        first_token_s: from its arrival until its first token.
        total_s: from its arrival to its end.
        tokens: it has.
    """

    queued_s: float
    first_token_s: float
    total_s: float
    tokens: int


class Metrics:
    """Counts what happened; one object a server, so that several may run in one process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"slimgpt_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"slimgpt_{name}_seconds", text, buckets=buckets, registry=registry)

        self._requests = counter("requests", "Requests to the model by outcome.", "outcome")
        self._prompt = counter("prompt_tokens", "Prompt tokens processed.")
        self._generation = counter("generation_tokens", "Tokens generated.")
        self._success = counter("request_success", "Answers by how they ended.", "finished_reason")
        self._first = histogram("time_to_first_token", "Arrival to first token.", _FIRST_TOKEN_S)
        self._between = histogram("inter_token_latency", "Between two tokens.", _TOKEN_S)
        self._per_token = histogram(
            "request_time_per_output_token", "Mean of each answer after its first token.", _TOKEN_S
        )
        self._e2e = histogram("e2e_request_latency", "Arrival to last token.", _REQUEST_S)
        self._queue = histogram("request_queue_time", "Arrival to a slot.", _REQUEST_S)
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        for reason in ("stop", "length", "abort", "error"):
            self._success.labels(reason)

    def watch(self, engine: HasLoad) -> None:
        """Tells of the engine's load, as it is when somebody asks."""
        self._registry.register(_LoadCollector(engine))

    def tell_artefact(self, version: str, model: str, digest: str) -> None:
        """Tells what is served, as the vLLM route does."""
        told = Gauge(METRIC, "The artefact that is served.", LABELS, registry=self._registry)
        told.labels(version=version, model=model, digest=digest).set(1)

    def request(self, outcome: str) -> None:
        """A request was answered: ``outcome`` is one of OUTCOMES."""
        self._requests.labels(outcome).inc()

    def prompt_tokens(self, count: int) -> None:
        self._prompt.inc(count)

    def generation_tokens(self, count: int) -> None:
        self._generation.inc(count)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        self._between.observe(seconds)

    def finished(self, reason: str, timing: Timing | None = None) -> None:
        """An answer ended: stop, length, abort or error."""
        self._success.labels(reason).inc()
        if timing:
            self._e2e.observe(timing.total_s)
            self._queue.observe(timing.queued_s)
            if timing.tokens > 1:
                after = timing.total_s - timing.first_token_s
                self._per_token.observe(after / (timing.tokens - 1))

    def text(self) -> bytes:
        """The body of /metrics."""
        return generate_latest(self._registry)


OUTCOMES = ("ok", "refused", "busy", "failed", "aborted")
"""200; the client's mistake (4xx); too many waiting (429); ours (5xx); the client went away."""


class _LoadCollector(Collector):
    """Reads the load when it is asked for: gauges that are set could be stale."""

    def __init__(self, engine: HasLoad) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        load = self._engine.load()
        share = load.cached_tokens / load.capacity_tokens
        for name, text, value in (
            ("num_requests_running", "Answers under way.", load.running),
            ("num_requests_waiting", "Answers that wait for a slot.", load.waiting),
            ("kv_cache_usage_perc", "Part of the KV cache in use; 1 is all of it.", share),
            ("kv_cache_tokens", "Tokens in the KV cache.", load.cached_tokens),
            ("kv_cache_capacity_tokens", "Tokens that fit the KV cache.", load.capacity_tokens),
        ):
            yield GaugeMetricFamily(f"slimgpt_{name}", text, value=value)
