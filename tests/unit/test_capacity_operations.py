"""Alert rules and autoscalers: valid, about series that exist, and derived from SLO and plan."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from slimgpt.errors import UsageError
from slimgpt_bench.accelerators import find
from slimgpt_bench.capacity.alerts import make_rules, queue_limit
from slimgpt_bench.capacity.autoscaling import scale_of, scaled_object
from slimgpt_bench.capacity.fluid import EFFICIENCY
from slimgpt_bench.capacity.operations import require_free, write_operations
from slimgpt_bench.capacity.plan import Margins
from slimgpt_bench.capacity.replica import Wishes
from slimgpt_bench.capacity.server_metrics import ONNX, VLLM, Objective, ServerMetrics, metrics_of
from slimgpt_bench.capacity.side import Side, Terms, plan_side
from slimgpt_bench.capacity.traffic import read_traffic
from slimgpt_bench.slo import Slo, read_slo
from slimgpt_serve.openai_api.metrics import Load, Metrics
from tests.capacity_plans import LLAMA_8B, write_checkpoint, write_slo, write_traffic
from tests.packaging.dockerfile import FOLDER

OBJECTIVES: tuple[Objective, ...] = ("ttft_s", "tpot_s", "e2e_s")
FILES = {
    "alerts.yaml",
    "horizontal-pod-autoscaler.yaml",
    "keda-scaled-object.yaml",
    "prometheus-adapter-values.yaml",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("m") / "dense", LLAMA_8B)


def _terms(root: Path, attainment: float = 0.95, **objectives: float) -> Terms:
    hours = [{"from": 0, "to": 12, "rate_rps": 20}, {"from": 12, "to": 24, "rate_rps": 200}]
    return Terms(
        read_traffic(write_traffic(root / "t.yaml", rate_rps=None, hours=hours)),
        read_slo(write_slo(root / "s.yaml", attainment, **objectives)),
        find("h100"),
        Wishes(),
        Margins(),
        EFFICIENCY,
        0,
    )


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    return _terms(tmp_path, ttft_s=0.6, tpot_s=0.05, e2e_s=20)


@pytest.fixture
def side(model: Path, terms: Terms) -> Side:
    return plan_side(model, (), "--evidence", terms)


@pytest.fixture
def written(side: Side, terms: Terms, tmp_path: Path) -> dict[str, Any]:
    names = write_operations(tmp_path / "ops", side, terms)
    return {x: yaml.safe_load((tmp_path / "ops" / x).read_text()) for x in names}


def _rules(written: dict[str, Any]) -> list[dict[str, Any]]:
    [group] = written["alerts.yaml"]["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_all_files_are_written(written: dict[str, Any]) -> None:
    assert set(written) == FILES


def test_equal_plans_give_equal_bytes(
    written: dict[str, Any], side: Side, terms: Terms, tmp_path: Path
) -> None:
    write_operations(tmp_path / "again", side, terms)
    for name in written:
        one, two = (tmp_path / folder / name for folder in ("ops", "again"))
        assert one.read_bytes() == two.read_bytes()


def test_every_expression_is_promql(written: dict[str, Any]) -> None:
    parser = pytest.importorskip("promql_parser", reason="needs promql-parser")
    for rule in _rules(written):
        parser.parse(rule["expr"])
    for trigger in written["keda-scaled-object.yaml"]["spec"]["triggers"]:
        parser.parse(trigger["metadata"]["query"])


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_autoscaler_meets_the_schema(written: dict[str, Any], version: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    kubernetes.validate(written["horizontal-pod-autoscaler.yaml"], version, strict=True)


def test_both_autoscalers_scale_the_deployment_that_we_ship(written: dict[str, Any]) -> None:
    deployment = yaml.safe_load((FOLDER / "kubernetes/deployment.yaml").read_text())
    target = {k: deployment[k] for k in ("apiVersion", "kind")}
    target["name"] = deployment["metadata"]["name"]
    for name in ("keda-scaled-object.yaml", "horizontal-pod-autoscaler.yaml"):
        assert written[name]["spec"]["scaleTargetRef"] == target


def test_the_autoscaler_asks_for_what_the_adapter_offers(written: dict[str, Any]) -> None:
    [rule] = written["prometheus-adapter-values.yaml"]["rules"]["custom"]
    [metric] = written["horizontal-pod-autoscaler.yaml"]["spec"]["metrics"]
    queue = rule["seriesQuery"].partition("{")[0]
    renamed = re.sub(rule["name"]["matches"], rule["name"]["as"].replace("${1}", r"\1"), queue)
    assert metric["pods"]["metric"]["name"] == renamed == "vllm_num_requests_waiting"


def test_the_job_is_the_one_that_is_scraped(written: dict[str, Any]) -> None:
    [job] = yaml.safe_load((FOLDER / "prometheus/prometheus.yaml").read_text())["scrape_configs"]
    [rule] = [x for x in _rules(written) if x["alert"] == "ReplicasOverloaded"]
    assert f'job="{job["job_name"]}"' in rule["expr"]


def test_every_alert_says_what_is_wrong_and_what_to_do(written: dict[str, Any]) -> None:
    names = [rule["alert"] for rule in _rules(written)]
    assert len(set(names)) == len(names)
    for rule in _rules(written):
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


# -- thresholds ---------------------------------------------------------------------------------


def test_a_burn_alert_fires_at_its_multiple_of_the_budget(side: Side, terms: Terms) -> None:
    rules = {x["alert"]: x["expr"] for x in make_rules(side, terms.slo).rules}
    for name, rate in (("Fast", 14.4), ("Steady", 6), ("Slow", 1)):
        limit = f"{rate * 0.05:.6g}"
        assert rules[f"FirstToken{name}Burn"].count(f"> {limit}") == 2


def test_a_bound_between_buckets_is_counted_at_the_one_below_and_said(
    side: Side, terms: Terms
) -> None:
    found = make_rules(side, terms.slo)
    [rule] = [x for x in found.rules if x["alert"] == "FirstTokenFastBurn"]
    assert 'le="0.5"' in rule["expr"]
    assert any(x.startswith("ttft_s 0.6: counted at the bucket 0.5 s") for x in found.notes)
    assert not any(x.startswith("tpot_s") for x in found.notes)  # 0.05 is a bucket


def test_what_no_metric_tells_gets_no_alert_and_a_note(side: Side) -> None:
    slo = Slo(0.0001, None, 0.02, None, 0.95, 0.95, "")
    found = make_rules(side, slo)
    assert not [x for x in found.rules if "Burn" in x["alert"]]
    assert any("ttft_s 0.0001: no alert, since the smallest bucket" in x for x in found.notes)
    assert any("itl_s 0.02: no alert" in x for x in found.notes)


def test_a_burn_that_no_number_of_misses_reaches_is_left_out(side: Side) -> None:
    slo = Slo(0.5, None, None, None, 0.9, 0.95, "")
    found = make_rules(side, slo)
    names = [x["alert"] for x in found.rules]
    assert "FirstTokenFastBurn" not in names
    assert "FirstTokenSteadyBurn" in names
    assert any("no alert FirstTokenFast" in x for x in found.notes)


def test_the_queue_s_limit_leaves_in_the_time_that_the_bound_allows(
    side: Side, terms: Terms
) -> None:
    limit, rate = queue_limit(side, terms.slo), side.plan.per_replica_rps.value
    assert limit
    assert rate
    assert limit / rate <= 0.6 < (limit + 1) / rate


def test_scaling_computes_what_the_plan_did(side: Side, terms: Terms) -> None:
    """At the peak KEDA's formula gives the planned replicas, spares among them."""
    scale = scale_of(side, terms)
    trigger, _ = scaled_object(side, terms)["spec"]["triggers"]
    spares = float(trigger["metadata"]["query"].rpartition(" + ")[2])
    average = float(trigger["metadata"]["threshold"])
    wanted = (terms.traffic.planned_peak_rps + spares) / average
    assert wanted == pytest.approx(side.plan.planned.value, abs=1e-3)
    assert 1 + terms.margins.spares <= scale.least < scale.most


def test_without_a_bound_on_time_there_is_no_queue_to_scale_by(model: Path, tmp_path: Path) -> None:
    terms = _terms(tmp_path, tpot_s=0.05)
    side = plan_side(model, (), "--evidence", terms)
    assert queue_limit(side, terms.slo) is None
    names = write_operations(tmp_path / "ops", side, terms)
    assert set(names) == {"alerts.yaml", "keda-scaled-object.yaml"}


# -- names and buckets --------------------------------------------------------------------------


class _Idle:
    def load(self) -> Load:
        return Load(0, 0, 0, 1)


def test_the_names_and_buckets_of_our_server_are_those_that_it_tells() -> None:
    metrics = Metrics()
    metrics.watch(_Idle())
    text = metrics.text().decode()
    for objective in OBJECTIVES:
        name = ONNX.histogram(objective)
        ends = re.findall(rf'^{name}_bucket{{le="([^"]+)"}}', text, re.M)
        assert tuple(float(x) for x in ends[:-1]) == ONNX.buckets[objective]
        assert [str(x) for x in ONNX.buckets[objective]] == ends[:-1]  # spelled the same
    for name in (ONNX.waiting, ONNX.kv_usage):
        assert f"\n{name} " in text
    for outcome in ("ok", "busy", "failed"):
        assert f'slimgpt_requests_total{{outcome="{outcome}"}}' in text


@pytest.mark.serving
def test_the_buckets_of_vllm_are_those_in_its_source(vllm_source: Path) -> None:
    source = ast.parse((vllm_source / "v1/metrics/buckets.py").read_text())
    found = dict(_assigned(source))
    names = {
        "ttft_s": "TIME_TO_FIRST_TOKEN_BUCKETS",
        "tpot_s": "INTER_TOKEN_LATENCY_BUCKETS",
        "e2e_s": "REQUEST_LATENCY_BUCKETS",
    }
    for objective in OBJECTIVES:
        assert found[names[objective]] == VLLM.buckets[objective]


@pytest.mark.serving
def test_the_metrics_of_vllm_are_named_in_its_source(vllm_source: Path) -> None:
    source = (vllm_source / "v1/metrics/loggers.py").read_text()
    named = [VLLM.histogram(x) for x in OBJECTIVES] + [VLLM.waiting, VLLM.kv_usage]
    for name in [*named, "vllm:request_success"]:
        assert f'name="{name}"' in source


def _assigned(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and node.value:
            name = ast.unparse(node.target)
            if name.endswith("_BUCKETS"):
                yield name, ast.literal_eval(node.value)


@pytest.mark.parametrize("metrics", [VLLM, ONNX], ids=lambda x: x.prefix)
def test_a_bucket_is_never_beyond_the_bound(metrics: ServerMetrics) -> None:
    for objective in OBJECTIVES:
        for bound in (0.001, 0.07, 0.5, 3.0, 1e5):
            bucket = metrics.bucket(objective, bound)
            assert bucket is None or bucket <= bound
    assert metrics_of("onnx") is ONNX
    assert metrics_of("vllm") is VLLM


def test_a_directory_that_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--write .* exists: give a directory that does not"):
        require_free(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--write .*can't be made: .*file is a file"):
        require_free(tmp_path / "file" / "ops")
