"""llm-d benchmark reports, against what their schema 0.2.1 asks for.

Transcribed from github.com/llm-d/llm-d-benchmark at 8bc9f1d (schema_v0_2.py, base.py); whole
reports were validated by hand with its own br_v0_2_1_json_schema.json and pydantic models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from slimgpt_bench.results import save
from slimgpt_bench.results.llm_d import report
from tests import result_samples as samples

STATISTICS = {
    *("units", "mean", "mode", "stddev", "min", "max", "p0p1", "p1", "p5", "p10", "p25", "p50"),
    *("p75", "p90", "p95", "p99", "p99p9"),
}
UNITS = {
    "time_to_first_token": {"s", "ms"},
    "request_latency": {"s", "ms"},
    "time_per_output_token": {"s/token", "ms/token"},
    "inter_token_latency": {"s/token", "ms/token"},
    "input_token_rate": {"tokens/s"},
    "output_token_rate": {"tokens/s"},
    "request_rate": {"queries/s"},
    "input_length": {"count"},
    "output_length": {"count"},
}
LOAD = {"tool", "tool_version", "source", "stage", "input_seq_len", "output_seq_len", "rate_qps"}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    document, requests = samples.load()
    return report(document, 2, [x for x in requests if x["level"] == 2])


def test_statistics_have_the_units_and_keys_of_the_schema(made):
    aggregate = made["results"]["request_performance"]["aggregate"]
    assert set(aggregate) == {"requests", "latency", "throughput"}
    told = aggregate["latency"] | aggregate["throughput"]
    told |= {k: v for k, v in aggregate["requests"].items() if k.endswith("_length")}
    assert set(told) == set(UNITS)
    for name, statistics in told.items():
        assert statistics["units"] in UNITS[name]
        assert isinstance(statistics["mean"], float)
        assert set(statistics) <= STATISTICS


def test_required_keys_are_there_and_no_other(made):
    assert set(made) == {"version", "run", "scenario", "results"}
    assert made["version"] == "0.2.1"
    assert set(made["run"]) <= {"uid", "eid", "cid", "pid", "time", "description", "keywords"}
    [server] = made["scenario"]["stack"]
    assert set(server) == {"metadata", "standardized", "native"}
    assert {"label", "cfg_id"} <= set(server["metadata"])
    assert server["standardized"]["kind"] == "generic"
    load = made["scenario"]["load"]
    assert set(load) == {"metadata", "standardized", "native"}
    assert set(load["standardized"]) == LOAD
    assert load["standardized"]["source"] in {"random", "sampled", "unknown"}
    lengths = load["standardized"]["output_seq_len"]
    assert lengths == {"distribution": "gaussian", "value": 64, "std_dev": 8.0}


def test_times_are_those_of_the_requests(made):
    _, requests = samples.load()
    times = [x["ttft_s"] for x in requests if x["level"] == 2]
    told = made["results"]["request_performance"]["aggregate"]["latency"]["time_to_first_token"]
    assert told["mean"] == pytest.approx(sum(times) / len(times))
    assert (told["min"], told["max"]) == (min(times), max(times))


def test_percentiles_without_enough_samples_are_left_out(made):
    told = made["results"]["request_performance"]["aggregate"]["latency"]["time_to_first_token"]
    assert {"p99", "p1", "p50"} <= set(told)
    assert not {"p99p9", "p0p1"} & set(told)


def test_failed_requests_and_those_of_the_warm_up_are_in_no_time():
    document, requests = samples.load()
    requests[0] |= {"ok": False, "ttft_s": 1e6}
    requests[1] |= {"phase": "warmup", "ttft_s": 1e6}
    document["levels"][0]["requests"] = {"sent": 319, "ok": 318, "failed": {"timeout": 1}}
    measured = [x for x in requests if x["level"] == 0 and x["phase"] == "measured"]
    told = report(document, 0, measured)["results"]["request_performance"]["aggregate"]
    assert told["latency"]["time_to_first_token"]["max"] < 10
    assert (told["requests"]["total"], told["requests"]["failures"]) == (319, 1)


def test_an_invalid_run_says_so():
    document, requests = samples.load(valid=False, problems=["the client was saturated"])
    told = report(document, 0, requests)["run"]
    assert told["description"] == "slimgpt bench load, INVALID; the client was saturated"
    assert "invalid" in told["keywords"]


def test_one_level_is_one_file(tmp_path: Path):
    document, requests = samples.load()
    document["levels"] = document["levels"][:1]
    save(tmp_path / "run", document, [x for x in requests if x["level"] == 0])
    assert yaml.safe_load((tmp_path / "run" / "llm-d.yaml").read_text())["version"] == "0.2.1"


def test_equal_results_give_equal_reports(made):
    document, requests = samples.load()
    assert made == report(document, 2, [x for x in requests if x["level"] == 2])
