"""The manifests: valid, restricted, and of one mind with the image and with one another."""

import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.packaging.dockerfile import FOLDER, final
from tests.packaging.vllm_metrics import series, used

pytestmark = pytest.mark.packaging

MANIFESTS = FOLDER / "kubernetes"
OF_KUBERNETES = sorted(
    path
    for path in MANIFESTS.rglob("*.yaml")
    if path.name
    not in {
        "inference-service.yaml",
        "kustomization.yaml",
        "pod-monitor.yaml",
        "prometheus-adapter-values.yaml",
    }
)
"""What the API server itself knows; the others are of kustomize, Helm and two operators."""
POD_OF_KSERVE = {"minReplicas", "maxReplicas", "timeout"}
"""Fields of a predictor that are not those of a pod."""
VERSIONS = ("1.30", "1.37")
"""From the first with a preStop that sleeps to the newest whose schema is known."""


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((MANIFESTS / name).read_text())
    return document


def _deployment() -> dict[str, Any]:
    return cast("dict[str, Any]", _read("deployment.yaml")["spec"]["template"]["spec"])


def _predictor() -> dict[str, Any]:
    """KServe's predictor as the pod that it becomes."""
    spec = _read("kserve/inference-service.yaml")["spec"]["predictor"]
    return {name: value for name, value in spec.items() if name not in POD_OF_KSERVE}


PODS = pytest.mark.parametrize("pod", [_deployment(), _predictor()], ids=["deployment", "kserve"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", OF_KUBERNETES, ids=lambda path: path.stem)
def test_a_manifest_meets_the_schema(path: Path, version: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    kubernetes.validate(yaml.safe_load(path.read_text()), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_predictor_of_kserve_is_a_valid_pod(version: str) -> None:
    """Its own schema is in no package; a predictor is a pod with few fields more."""
    kubernetes = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}}
    kubernetes.validate(pod | {"spec": _predictor()}, version, strict=True)


def test_the_inference_service_is_one_that_kserve_takes() -> None:
    service = _read("kserve/inference-service.yaml")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service["kind"] == "InferenceService"
    (container,) = service["spec"]["predictor"]["containers"]
    assert container["name"] == "kserve-container"  # the name that KServe looks for


def test_kustomize_takes_what_is_there() -> None:
    resources = _read("kustomization.yaml")["resources"]
    assert set(resources) == {path.name for path in OF_KUBERNETES if path.parent == MANIFESTS}


@PODS
def test_a_pod_meets_the_restricted_standard(pod: dict[str, Any]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, and more."""
    of_pod = pod["securityContext"]
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@PODS
def test_a_pod_runs_as_the_user_of_the_image(pod: dict[str, Any]) -> None:
    (user,) = final("serve", "USER")
    context = pod["securityContext"]
    assert user.text == f"{context['runAsUser']}:{context['runAsGroup']}"


@PODS
def test_what_the_image_writes_to_is_mounted(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    (cache,) = [word for each in final("serve", "VOLUME") for word in each.words()]
    assert {cache, "/tmp"} <= set(mounts)
    assert {each["name"] for each in mounts.values()} == {each["name"] for each in pod["volumes"]}


@PODS
def test_the_model_is_read_only(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "model"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "model"]
    assert mount["readOnly"] is True
    assert volume["persistentVolumeClaim"] == {
        "claimName": _read("model-claim.yaml")["metadata"]["name"],
        "readOnly": True,
    }
    assert container["args"][0] == mount["mountPath"]


@PODS
def test_the_key_comes_from_a_secret_that_no_file_holds(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    (key,) = [each for each in container["env"] if each["name"] == "VLLM_API_KEY"]
    assert set(key) == {"name", "valueFrom"}
    assert "secretKeyRef" in key["valueFrom"]
    kinds = {yaml.safe_load(path.read_text()).get("kind") for path in MANIFESTS.rglob("*.yaml")}
    assert "Secret" not in kinds


@PODS
def test_every_probe_asks_what_answers_once_the_model_is_loaded(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[name]["httpGet"]
        assert asked["path"] == "/health"
        assert ports.get(asked["port"], asked["port"]) == int(final("serve", "EXPOSE")[0].text)


@PODS
def test_the_start_may_take_half_an_hour_and_a_hang_is_seen_in_a_minute(
    pod: dict[str, Any],
) -> None:
    (container,) = pod["containers"]
    assert _patience_s(container["startupProbe"]) >= 1800
    assert _patience_s(container["livenessProbe"]) <= 60


@PODS
def test_requests_under_way_end_before_the_pod_is_killed(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    arguments = container["args"]
    drains_s = int(arguments[arguments.index("--shutdown-timeout") + 1])
    waits_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert waits_s + drains_s < pod["terminationGracePeriodSeconds"]


@pytest.mark.serving
def test_vllm_knows_the_flag_that_lets_them_end(vllm_source: Path) -> None:
    assert '"--shutdown-timeout"' in (vllm_source / "engine/arg_utils.py").read_text()


@PODS
def test_each_worker_has_a_gpu(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    arguments = container["args"]
    workers = arguments[arguments.index("--tensor-parallel") + 1]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == workers


@PODS
def test_an_unpinned_image_starts_nothing(pod: dict[str, Any]) -> None:
    """The tag is one that nobody pushes; docs/deployment.md replaces it by a digest."""
    (container,) = pod["containers"]
    assert container["image"] == "slimgpt-serve:set-a-digest"


def test_a_rollout_may_take_as_long_as_a_start() -> None:
    deployment = _read("deployment.yaml")["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert deployment["progressDeadlineSeconds"] > _patience_s(container["startupProbe"])


def test_everything_selects_the_pods_of_the_deployment() -> None:
    labels = _read("deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    selected = [
        _read("deployment.yaml")["spec"]["selector"]["matchLabels"],
        _read("service.yaml")["spec"]["selector"],
        _read("disruption-budget.yaml")["spec"]["selector"]["matchLabels"],
        _read("network-policy.yaml")["spec"]["podSelector"]["matchLabels"],
        _read("autoscaling/pod-monitor.yaml")["spec"]["selector"]["matchLabels"],
    ]
    assert all(each == labels for each in selected)


def test_every_named_port_is_one_of_the_container() -> None:
    (container,) = _deployment()["containers"]
    named = {
        _read("service.yaml")["spec"]["ports"][0]["targetPort"],
        _read("network-policy.yaml")["spec"]["ingress"][0]["ports"][0]["port"],
        _read("autoscaling/pod-monitor.yaml")["spec"]["podMetricsEndpoints"][0]["port"],
    }
    assert named == {each["name"] for each in container["ports"]}


def test_a_pod_reaches_nothing_outside() -> None:
    policy = _read("network-policy.yaml")["spec"]
    assert "Egress" in policy["policyTypes"]
    assert policy["egress"] == []


def test_the_autoscaler_scales_the_deployment_and_nothing_else_sets_its_size() -> None:
    target = _read("autoscaling/horizontal-pod-autoscaler.yaml")["spec"]["scaleTargetRef"]
    deployment = _read("deployment.yaml")
    assert target == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]


def test_the_autoscaler_reads_the_queue_of_vllm_by_the_name_that_the_adapter_gives() -> None:
    (rule,) = _read("autoscaling/prometheus-adapter-values.yaml")["rules"]["custom"]
    (metric,) = _read("autoscaling/horizontal-pod-autoscaler.yaml")["spec"]["metrics"]
    (queue,) = used(rule["seriesQuery"])
    assert queue == "vllm:num_requests_waiting"
    assert queue in series()
    renamed = re.sub(rule["name"]["matches"], rule["name"]["as"].replace("${1}", r"\1"), queue)
    assert metric["type"] == "Pods"
    assert metric["pods"]["metric"]["name"] == renamed


def test_what_the_adapter_asks_is_promql() -> None:
    """As its template expands for the pods of one namespace."""
    parser = pytest.importorskip("promql_parser", reason="needs promql-parser")
    (rule,) = _read("autoscaling/prometheus-adapter-values.yaml")["rules"]["custom"]
    query = rule["metricsQuery"]
    for name, value in {
        "<<.Series>>": "vllm:num_requests_waiting",
        "<<.LabelMatchers>>": 'namespace="models",pod=~"a|b"',
        "<<.GroupBy>>": "pod",
    }.items():
        query = query.replace(name, value)
    parser.parse(rule["seriesQuery"])
    parser.parse(query)


def _patience_s(probe: dict[str, int]) -> int:
    return probe["periodSeconds"] * probe["failureThreshold"]
