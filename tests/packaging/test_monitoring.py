"""Dashboard, alerts and scrapes: they parse, they meet, and they name metrics that exist."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from slimgpt_serve.build_info import LABELS, METRIC
from tests.packaging.dockerfile import FOLDER
from tests.packaging.vllm_metrics import KNOWN, declared, series, used

pytestmark = pytest.mark.packaging

DASHBOARD = FOLDER / "grafana/dashboards/serving.json"
ALERTS = FOLDER / "prometheus/alerts.yaml"
SCRAPES = FOLDER / "prometheus/prometheus.yaml"
PROVISIONED = FOLDER / "grafana/provisioning"
SHOWN = {
    METRIC,
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:request_time_per_output_token_seconds_bucket",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_hits_total",
    "vllm:spec_decode_num_accepted_tokens_total",
}
"""What an operator must be able to see."""


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return document


@pytest.mark.serving
def test_the_metrics_that_are_used_are_those_of_vllm(vllm_source: Path) -> None:
    in_source = declared(vllm_source)
    assert {name: in_source.get(name) for name in KNOWN} == KNOWN


@pytest.mark.parametrize("source", [DASHBOARD, ALERTS], ids=lambda path: path.name)
def test_every_expression_names_series_that_exist(source: Path) -> None:
    named = set().union(*map(used, _expressions(source)))
    assert named
    assert not named - series()


@pytest.mark.parametrize("source", [DASHBOARD, ALERTS], ids=lambda path: path.name)
def test_every_expression_is_promql(source: Path) -> None:
    parser = pytest.importorskip("promql_parser", reason="needs promql-parser")
    for expression in _expressions(source):
        parser.parse(expression.replace("$__rate_interval", "5m"))


def test_the_dashboard_shows_what_an_operator_needs(dashboard: dict[str, Any]) -> None:
    assert set().union(*map(used, _expressions(DASHBOARD))) >= SHOWN


def test_what_is_served_is_told_by_the_labels_that_the_server_sets(
    dashboard: dict[str, Any],
) -> None:
    (table,) = [panel for panel in dashboard["panels"] if panel["type"] == "table"]
    (order,) = table["transformations"]
    assert set(order["options"]["indexByName"]) == {"instance", *LABELS}
    (alert,) = [each for each in _expressions(ALERTS) if METRIC in each]
    assert set(re.findall(r"by \((\w+)\)", alert)) <= set(LABELS)


def test_panels_have_a_title_an_explanation_and_a_unit(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"]


def test_panels_are_told_apart_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([_cells(panel["gridPos"]) for panel in panels], 2):
        assert not one & other


def test_everything_reads_the_provisioned_datasource(dashboard: dict[str, Any]) -> None:
    (source,) = _yaml(PROVISIONED / "datasources/prometheus.yaml")["datasources"]
    asking = [
        *dashboard["panels"],
        *(target for panel in dashboard["panels"] for target in panel["targets"]),
        *dashboard["templating"]["list"],
    ]
    assert {each["datasource"]["uid"] for each in asking} == {source["uid"]}


def test_grafana_finds_the_dashboard_where_it_is_mounted() -> None:
    (provider,) = _yaml(PROVISIONED / "dashboards/slimgpt.yaml")["providers"]
    mounts = _yaml(FOLDER / "compose.yaml")["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts


def test_grafana_asks_prometheus_and_prometheus_the_server_by_their_names() -> None:
    services = _yaml(FOLDER / "compose.yaml")["services"]
    (source,) = _yaml(PROVISIONED / "datasources/prometheus.yaml")["datasources"]
    (scrape,) = _yaml(SCRAPES)["scrape_configs"]
    asked = [source["url"].removeprefix("http://"), *scrape["static_configs"][0]["targets"]]
    assert {each.split(":")[0] for each in asked} == {"prometheus", "serve"}
    for each in asked:
        name, port = each.split(":")
        assert f"127.0.0.1:{port}:{port}" in services[name]["ports"]


def test_the_alerts_are_loaded_and_watch_the_job_that_is_scraped() -> None:
    scrapes = _yaml(SCRAPES)
    assert scrapes["rule_files"] == [ALERTS.name]
    (job,) = scrapes["scrape_configs"]
    assert f'up{{job="{job["job_name"]}"}}' in ALERTS.read_text()


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    (group,) = _yaml(ALERTS)["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names)
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def _yaml(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def _expressions(source: Path) -> Iterator[str]:
    """Of the alerts, or of the dashboard's panels and variables."""
    if source == ALERTS:
        yield from (rule["expr"] for group in _yaml(source)["groups"] for rule in group["rules"])
        return
    dashboard = json.loads(source.read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        # label_values(METRIC, LABEL) is Grafana's, not PromQL's.
        yield variable["query"]["query"].removeprefix("label_values(").split(",")[0]


def _cells(grid: dict[str, int]) -> set[tuple[int, int]]:
    return {
        (x, y)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    }
