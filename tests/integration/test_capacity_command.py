"""`slimgpt capacity` as a planner gives it: plans, the page, and what is kept of them."""

from pathlib import Path
from typing import Any

import pytest

from slimgpt_bench.artefact import describe
from slimgpt_bench.results import read
from tests.capacity_desk import Desk
from tests.capacity_plans import Outcome, save_load, write_traffic


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


# -- plans --------------------------------------------------------------------------------------


def test_without_evidence_the_first_line_says_that_nothing_was_measured(desk: Desk) -> None:
    code, stdout, _ = desk.plan("--accelerator", "h200")
    assert code == 0
    assert stdout.startswith("Nothing was measured: every rate is modelled from a roofline.")
    assert "measured" not in {x["label"] for x in _labelled(desk.document("--accelerator", "h200"))}


def test_evidence_decides_the_plan(desk: Desk) -> None:
    found = desk.document("--evidence", desk.sweep())
    rate, replicas = found["replica"]["rate_rps"], found["plan"]["replicas"]
    assert [rate[x]["value"] for x in ("lower", "point", "upper")] == [4, 8, 16]
    assert [replicas[x]["value"] for x in ("lower", "point", "upper")] == [4, 7, 13]
    assert found["plan"]["planned_replicas"]["value"] == 13
    assert found["plan"]["planned_replicas"]["label"] == "measured"
    assert found["valid"] is True
    assert found["evidence"][0]["run"] == "run"


def test_several_runs_are_one_body_of_evidence(desk: Desk) -> None:
    runs = [desk.sweep(f"run{i}") for i in range(3)]
    found = desk.document(*(x for path in runs for x in ("--evidence", path)))
    assert [level["runs"] for level in found["replica"]["levels"]] == [3] * 4
    assert not any("run(s)" in x for x in found["problems"])


def test_the_page_tells_the_plan_first_and_then_why(desk: Desk) -> None:
    code, stdout, _ = desk.plan("--evidence", desk.sweep(), "--price", "2.5")
    assert code == 0
    plan = "Plan      13 replicas of pruned, 1 of them spare: 13 x box (at least 4)"
    assert stdout.splitlines()[0] == plan
    assert stdout.index("Why") < stdout.index("What to know") < stdout.index("Numbers")
    assert "284,700 USD a year" in stdout  # 13 x 2.5 x 8,760
    assert "meets the SLO with 95% confidence at 4 requests/s, by the point estimate at 8" in stdout
    assert len(stdout.splitlines()) < 50


def test_without_a_price_there_is_no_money(desk: Desk) -> None:
    _, stdout, _ = desk.plan("--evidence", desk.sweep(), "--baseline", desk.dense)
    assert not any(word in stdout for word in ("Money", "USD", "USD/h", "a year"))
    found = desk.document("--evidence", desk.sweep("again"), "--baseline", desk.dense)
    assert found["money"] is None
    assert found["difference"]["money_per_year"] is None


def test_the_page_says_what_the_evidence_leaves_open(desk: Desk) -> None:
    run = desk.sweep(outcomes={2: Outcome(500), 4: Outcome(500)})
    dense = save_load(desk.root / "of-dense", describe(desk.dense), {2: Outcome(500)})
    against = ("--baseline", desk.dense, "--baseline-evidence", dense)
    _, stdout, _ = desk.plan("--evidence", run, *against)
    assert "fewer may do: no rate that misses the SLO is known" in stdout
    assert "; no rate was measured that misses it (measured)" in stdout
    assert "that it saves any is not sure: the bounds of the two plans overlap" in stdout
    assert "not known to" not in stdout


def test_what_limits_the_sequences_at_once_is_named(desk: Desk) -> None:
    few = desk.document("--accelerator", "h200", "--max-sequences", "3")["replica"]["concurrent"]
    assert few["value"] == 3
    assert few["source"].startswith("max_sequences: ")
    many = desk.document("--accelerator", "h200", "--max-sequences", "9000")["replica"]
    assert many["concurrent"]["value"] == many["kv_tokens"]["value"] / many["tokens_held"]["value"]
    assert many["concurrent"]["source"].startswith("KV tokens over")


def test_large_numbers_are_written_out(desk: Desk) -> None:
    write_traffic(desk.traffic, rate_rps=295_735)
    _, stdout, _ = desk.plan("--evidence", desk.sweep(), "--write", desk.root / "ops")
    assert "295,735 requests/s at the peak" in stdout
    assert "e+" not in stdout
    assert "e+" not in (desk.root / "ops/alerts.yaml").read_text().replace("354882", "")


def test_a_plan_is_printed_though_it_can_not_be_saved(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run = desk.sweep()
    monkeypatch.setattr("slimgpt_bench.results.saving.publish", full)
    code, stdout, stderr = desk.plan("--save", desk.root / "plan", "--evidence", run)
    assert code == 4
    assert "No space left on device" in stderr
    assert stdout.startswith("Plan      13 replicas")


def test_every_number_is_labelled_and_has_a_source(desk: Desk) -> None:
    numbers = _labelled(desk.document("--evidence", desk.sweep(), "--price", "1"))
    assert len(numbers) > 35
    for number in numbers:
        assert number["label"] in ("measured", "modelled", "assumed")
        assert number["source"]


def test_the_difference_to_the_dense_model_has_bounds(desk: Desk) -> None:
    dense = save_load(
        desk.root / "of-dense", describe(desk.dense), {1: Outcome(500), 2: Outcome(1, 499)}
    )
    found = desk.document(
        *("--evidence", desk.sweep(), "--baseline", desk.dense),
        *("--baseline-evidence", dense, "--price", "1"),
    )
    saved = found["difference"]["accelerators"]
    assert saved["point"]["value"] == 49 - 13
    assert saved["lower"]["value"] == 25 - 13
    assert saved["upper"]["value"] == 49 - 4
    assert saved["point"]["label"] == "measured"
    assert found["difference"]["money_per_year"]["point"]["value"] == (49 - 13) * 8760
    assert found["baseline"]["artefact"]["name"] == "dense"


def test_measured_against_modelled_is_said(desk: Desk) -> None:
    found = desk.document("--evidence", desk.sweep(), "--baseline", desk.dense)
    assert found["difference"]["accelerators"]["point"]["label"] == "modelled"
    assert any("one of the two plans is measured" in x for x in found["problems"])


def test_lengths_that_differ_a_little_make_it_an_extrapolation(desk: Desk) -> None:
    found = desk.document("--evidence", desk.sweep(prompt=620))
    assert found["replica"]["rate_rps"]["lower"]["label"] == "modelled"
    assert any(
        "mean of prompt_tokens is 620 there and 512 in --traffic: rates are extrapolated" in x
        for x in found["problems"]
    )


def test_smoother_arrivals_make_it_an_extrapolation(desk: Desk) -> None:
    load = {"arrival": "constant", "burstiness": 1.0}
    found = desk.document("--evidence", desk.sweep(load=load))
    assert found["replica"]["rate_rps"]["lower"]["label"] == "modelled"
    assert any("arrivals were constant" in x for x in found["problems"])


def test_a_server_elsewhere_is_taken_on_trust(desk: Desk) -> None:
    target = {"url": "http://gpu.example:8000", "model": "m", "server": {}}
    found = desk.document("--evidence", desk.sweep(target=target), "--accelerator", "h200")
    assert any("ran on h200 is taken on trust" in x for x in found["problems"])


def test_a_few_requests_beyond_the_context_are_told(desk: Desk) -> None:
    write_traffic(desk.traffic, prompt_tokens="lognormal:3000,2000")
    found = desk.document()
    assert any("of the requests in --traffic are longer than the model's" in x for x in _of(found))


# -- what is kept -------------------------------------------------------------------------------


def test_a_plan_is_saved_as_it_is_printed(desk: Desk) -> None:
    printed = desk.document("--save", desk.root / "plan", "--evidence", desk.sweep())
    saved = read(desk.root / "plan")
    assert {k: saved[k] for k in printed if k != "files"} == printed
    assert (desk.root / "plan" / "result.csv").is_file()


def test_rules_and_autoscalers_are_written(desk: Desk) -> None:
    code, _, stderr = desk.plan("--write", desk.root / "ops", "--evidence", desk.sweep())
    assert code == 0
    assert "each for 4 requests/s (measured)" in (desk.root / "ops/alerts.yaml").read_text()
    assert "alerts.yaml" in "".join(stderr.split())  # long paths are broken


def test_options_of_every_verb_are_taken(desk: Desk) -> None:
    log = desk.root / "log"
    code, stdout, stderr = desk.plan(
        *("--quiet", "--seed", "3", "--dtype", "bfloat16", "--device", "cpu", "--log-file", log),
        *("--evidence", desk.sweep(), "--write", desk.root / "ops"),
    )
    assert (code, stderr) == (0, "")
    assert stdout


def _labelled(part: Any) -> list[dict[str, Any]]:
    if isinstance(part, list):
        return [x for each in part for x in _labelled(each)]
    if not isinstance(part, dict):
        return []
    if {"value", "unit", "label"} <= set(part):
        return [part]
    return [x for each in part.values() for x in _labelled(each)]


def _of(document: dict[str, Any]) -> list[str]:
    found: list[str] = document["problems"]
    return found
