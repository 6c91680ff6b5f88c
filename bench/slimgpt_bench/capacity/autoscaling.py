"""Autoscalers from the plan: KEDA's ScaledObject, and an autoscaler of Kubernetes itself.

Each replica is given the rate that it was planned for, so that scaling computes what the plan did.
The queue is the second signal: rates of answers don't rise when replicas are full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slimgpt_bench.capacity.alerts import queue_limit
from slimgpt_bench.capacity.plan import needed
from slimgpt_bench.capacity.server_metrics import metrics_of
from slimgpt_bench.capacity.side import Side, Terms

NAME = "slimgpt-serve"
"""Of the Deployment in docker/kubernetes."""

_PROMETHEUS = "http://prometheus:9090"
_BEHAVIOR = {
    "scaleUp": {
        "stabilizationWindowSeconds": 60,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 180}],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 900,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
    },
}
"""As docker/kubernetes/autoscaling has it: a replica takes minutes to load."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What an autoscaler is told.

    Attributes:
        least: replicas in the quietest hour, or one, with spares.
        most: planned replicas.
        rate_rps: that one more replica is added for.
        waiting: requests of one replica at which one is added; None without a bound to derive it
            from.
    """

    least: int
    most: int
    rate_rps: float
    waiting: int | None


def scale_of(side: Side, terms: Terms) -> Scale:
    """From the plan: half of the queue that costs the whole bound, since help takes minutes."""
    margins, traffic = terms.margins, terms.traffic
    full = side.plan.per_replica_rps.value or 0.0
    quiet = min((rate for _, rate in traffic.hours), default=0.0)
    factor = (1 + traffic.growth) * (1 + margins.headroom)
    queue = queue_limit(side, terms.slo)
    most = int(side.plan.planned.value or 1)
    return Scale(
        least=min(most, needed(quiet * factor, full) + margins.spares),
        most=most,
        rate_rps=full / (1 + margins.headroom),
        waiting=None if queue is None else max(1, queue // 2),
    )


def scaled_object(side: Side, terms: Terms) -> dict[str, Any]:
    """KEDA's: on the rate and on the queue, whichever asks for more."""
    metrics, scale = metrics_of(side.replica.engine), scale_of(side, terms)
    spares = terms.margins.spares * scale.rate_rps
    queries = [(f"sum(rate({metrics.ended}[2m])) + {spares:.6g}", f"{scale.rate_rps:.6g}")]
    if scale.waiting is not None:
        queries.append((f"sum({metrics.waiting})", str(scale.waiting)))
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/name": NAME}},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
            "minReplicaCount": scale.least,
            "maxReplicaCount": scale.most,
            # Without Prometheus nobody knows the traffic: the whole plan runs.
            "fallback": {"failureThreshold": 3, "replicas": scale.most},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _BEHAVIOR}},
            "triggers": [
                {
                    "type": "prometheus",
                    "metricType": "AverageValue",
                    "metadata": {
                        "serverAddress": _PROMETHEUS,
                        "query": query,
                        "threshold": threshold,
                    },
                }
                for query, threshold in queries
            ],
        },
    }


def horizontal_autoscaler(side: Side, terms: Terms) -> dict[str, Any] | None:
    """Kubernetes' own, on the queue alone; None without a bound to derive its length from."""
    scale = scale_of(side, terms)
    if scale.waiting is None:
        return None
    metric = metrics_of(side.replica.engine).waiting.replace(":", "_")
    target = {"type": "AverageValue", "averageValue": str(scale.waiting)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/name": NAME}},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
            "minReplicas": scale.least,
            "maxReplicas": scale.most,
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": metric}, "target": target}}],
            "behavior": _BEHAVIOR,
        },
    }


def adapter_values(side: Side) -> dict[str, Any]:
    """Of prometheus-adapter's Helm chart: the queue as a metric of a pod, for the above."""
    metrics = metrics_of(side.replica.engine)
    return {
        "rules": {
            "default": False,
            "custom": [
                {
                    "seriesQuery": f'{metrics.waiting}{{namespace!="",pod!=""}}',
                    "resources": {
                        "overrides": {
                            "namespace": {"resource": "namespace"},
                            "pod": {"resource": "pod"},
                        }
                    },
                    "name": {"matches": f"^{metrics.prefix}(.*)$", "as": _renamed(metrics.prefix)},
                    "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
                }
            ],
        }
    }


def _renamed(prefix: str) -> str:
    """A colon in a path of the metrics API trips some clients."""
    return prefix.replace(":", "_") + "${1}"
