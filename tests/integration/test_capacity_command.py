"""`slimgpt capacity` as a planner gives it: plans, refusals, files, exit codes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt_bench.artefact import Artefact, describe
from slimgpt_bench.results import read, save
from tests.capacity_plans import (
    LLAMA_8B,
    PRUNED_8B,
    Outcome,
    load_result,
    save_load,
    write_checkpoint,
    write_slo,
    write_traffic,
)

MISSED, USAGE, UNRESOLVED, ENVIRONMENT, INTEGRITY = 1, 2, 3, 4, 5
SWEEP: Mapping[float, Outcome] = {
    2: Outcome(500),
    4: Outcome(500),
    8: Outcome(96, 4),
    16: Outcome(300, 200),
}
CPU = "schema: 1\nname: box\nplatform: cpu\nmemory_gib: 64\nterabytes_per_s: 9\n"
CPU += "teraflops: {float32: 900}\n"
"""A machine as fast as no other: what the roofline says is then never in the way."""


class Desk:
    """Files to plan with, and the command."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root, self._capture = root, capture
        self.dense = write_checkpoint(root / "dense", LLAMA_8B)
        self.pruned = write_checkpoint(root / "pruned", PRUNED_8B)
        self.traffic = write_traffic(root / "traffic.yaml")
        self.slo = write_slo(root / "slo.yaml")
        (root / "box.yaml").write_text(CPU)

    @property
    def artefact(self) -> Artefact:
        return describe(self.pruned)

    def sweep(
        self, name: str = "run", outcomes: Mapping[float, Outcome] = SWEEP, **options: Any
    ) -> Path:
        """A saved measurement of the pruned model."""
        return save_load(self.root / name, self.artefact, outcomes, **options)

    def plan(self, *options: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        given = [str(x) for x in options]
        fixed = ["--traffic", self.traffic, "--slo", self.slo]
        if "--accelerator" not in given:
            fixed += ["--accelerator", self.root / "box.yaml"]
        self._capture.readouterr()
        code = run(["capacity", str(self.pruned), *map(str, fixed), *given])
        return code, *self._capture.readouterr()

    def document(self, *options: str | Path) -> dict[str, Any]:
        """What ``--json`` prints."""
        _, stdout, _ = self.plan("--json", *options)
        found: dict[str, Any] = json.loads(stdout)
        return found


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
    assert not any("of 3 runs" in x for x in found["problems"])


def test_the_page_tells_the_plan_first_and_then_why(desk: Desk) -> None:
    code, stdout, _ = desk.plan("--evidence", desk.sweep(), "--price", "2.5")
    assert code == 0
    first = stdout.splitlines()[0]
    assert first.startswith("Plan      13 replicas of pruned, 1 of them spare: 13 x box (4 to 13)")
    plan, why, numbers = (stdout.index(x) for x in ("Plan", "Why", "Numbers"))
    assert plan < why < numbers
    assert "284,700 USD a year" in stdout  # 13 x 2.5 x 8,760


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


# -- nothing to plan with -----------------------------------------------------------------------

Spoil = Callable[[Desk], tuple[str | Path, ...]]


def _other_model(desk: Desk) -> tuple[str | Path, ...]:
    return "--evidence", save_load(desk.root / "x", describe(desk.dense), SWEEP)


def _served_another(desk: Desk) -> tuple[str | Path, ...]:
    target = {"url": "http://127.0.0.1:1", "model": "m", "server": {"digest": "ab" * 32}}
    return "--evidence", desk.sweep(target=target)


def _no_model(desk: Desk) -> tuple[str | Path, ...]:
    return "--evidence", desk.sweep(artefact=None)


def _other_gpu(desk: Desk) -> tuple[str | Path, ...]:
    machine = {"cpu": "x", "device": "cuda", "gpus": [{"name": "NVIDIA H100 80GB HBM3"}]}
    return "--evidence", desk.sweep(environment=machine), "--accelerator", "h200"


def _no_gpu(desk: Desk) -> tuple[str | Path, ...]:
    return "--evidence", desk.sweep(), "--accelerator", "h200"


def _other_machine(desk: Desk) -> tuple[str | Path, ...]:
    path = desk.sweep(environment={"cpu": "another", "device": "cpu"})
    return "--evidence", path, "--accelerator", "here", "--device", "cpu"


def _elsewhere(desk: Desk) -> tuple[str | Path, ...]:
    target = {"url": "http://gpu.example:8000", "model": "m", "server": {}}
    path = desk.sweep(target=target)
    return "--evidence", path, "--accelerator", "here", "--device", "cpu"


def _far_lengths(desk: Desk) -> tuple[str | Path, ...]:
    return "--evidence", desk.sweep(output=300)


def _closed_loop(desk: Desk) -> tuple[str | Path, ...]:
    document, requests = load_result(desk.artefact, {2: Outcome(500)})
    document["levels"][0]["offered"] = {"concurrency": 4}
    save(desk.root / "run", document, requests)
    return "--evidence", desk.root / "run"


def _hopeless(desk: Desk) -> tuple[str | Path, ...]:
    return "--evidence", desk.sweep(outcomes={2: Outcome(300, 200)})


def _unsure(desk: Desk) -> tuple[str | Path, ...]:
    return "--evidence", desk.sweep(outcomes={2: Outcome(20)})


def _too_long(desk: Desk) -> tuple[str | Path, ...]:
    write_traffic(desk.traffic, prompt_tokens=9000)
    return ()


def _below_the_floor(desk: Desk) -> tuple[str | Path, ...]:
    write_slo(desk.slo, tpot_s=1e-6)
    return "--accelerator", "h200"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_other_model, "was measured on another model, of digest "),
        (_served_another, "was measured on another model, of digest abababababab"),
        (_no_model, "does not tell which model was served: measure again with --artefact"),
        (_other_gpu, "was measured on NVIDIA H100 80GB HBM3, and the plan is for --accelerator"),
        (_no_gpu, "and the plan is for --accelerator h200: measure there"),
        (_other_machine, "was measured on another, and the plan is for --accelerator here"),
        (_elsewhere, "was measured on a server elsewhere, and --accelerator is here"),
        (_far_lengths, "mean of output_tokens is 300 there and 128 in --traffic: too far apart"),
        (_closed_loop, "has no valid level of an open loop: level 1 of it is left out: a closed"),
    ],
)
def test_evidence_of_something_else_is_refused(desk: Desk, spoil: Spoil, told: str) -> None:
    code, stdout, stderr = desk.plan(*spoil(desk))
    assert (code, stdout) == (UNRESOLVED, "")
    assert told in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_hopeless, "no measured rate meets the SLO: the best is 60.0% at 2 requests/s"),
        (_unsure, "no measured rate is sure to meet the SLO: at 2 requests/s 100.0% of 20"),
        (_too_long, "100.0% of the requests in --traffic are longer than the model's context"),
        (_below_the_floor, "no rate can meet the SLO on h200: a replica without other work"),
    ],
)
def test_an_slo_that_no_rate_meets_is_told_and_the_document_printed(
    desk: Desk, spoil: Spoil, told: str
) -> None:
    code, stdout, stderr = desk.plan("--json", "--save", desk.root / "plan", *spoil(desk))
    assert code == UNRESOLVED
    assert told in stderr
    document = json.loads(stdout)
    assert document["valid"] is False
    assert document["plan"]["planned_replicas"]["value"] == "insufficient"
    assert any(told in x for x in document["problems"])
    assert read(desk.root / "plan")["valid"] is False


def test_a_plan_that_is_none_writes_no_rules(desk: Desk) -> None:
    code, stdout, _ = desk.plan("--write", desk.root / "ops", *_hopeless(desk))
    assert code == UNRESOLVED
    assert stdout.startswith("Plan      none:")
    assert not (desk.root / "ops").exists()


# -- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--accelerator", "h300"), USAGE, "--accelerator h300: give one of h200"),
        (("--price", "0"), USAGE, "--price 0: give what an accelerator costs an hour"),
        (("--utilization", "1.5"), USAGE, "--utilization 1.5: give a share above 0"),
        (("--efficiency", "0"), USAGE, "--efficiency 0: give a share above 0"),
        (("--headroom", "-1"), USAGE, "--headroom -1: give a share from 0"),
        (("--duration", "0"), USAGE, "--duration 0: give seconds above 0"),
        (("--baseline-evidence", "x"), USAGE, "--baseline-evidence is of a dense model"),
        (("--tensor-parallel", "5"), USAGE, "--tensor-parallel 5 does not divide layer 0"),
        (("--evidence", "nowhere"), USAGE, "--evidence nowhere: nowhere is no saved result"),
        (("--accelerator", "l4", "--utilization", "0.5"), ENVIRONMENT, "leaves no KV cache"),
        (("--save", "."), USAGE, "--save ."),
        (("--write", "."), USAGE, "--write . exists"),
        (("--slo", "nowhere.yaml"), USAGE, "--slo nowhere.yaml can't be read"),
    ],
)
def test_mistakes_are_told_in_a_line(
    desk: Desk, options: tuple[str, ...], code: int, told: str
) -> None:
    found, stdout, stderr = desk.plan(*options)
    assert (found, stdout) == (code, "")
    assert told in stderr
    assert stderr.count("\n") == 1


def test_a_result_of_another_kind_is_refused(desk: Desk) -> None:
    desk.plan("--save", desk.root / "plan", "--evidence", desk.sweep())
    code, _, stderr = desk.plan("--evidence", desk.root / "plan")
    assert code == USAGE
    assert "is of kind capacity: give what slimgpt bench load --save made" in stderr


def test_a_result_of_another_schema_is_refused(desk: Desk) -> None:
    path = desk.sweep() / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))
    code, _, stderr = desk.plan("--evidence", path.parent)
    assert code == USAGE
    assert "schema version 2" in stderr


def test_requests_that_were_changed_are_no_evidence(desk: Desk) -> None:
    path = desk.sweep() / "requests.jsonl"
    path.write_text(path.read_text().replace("false", "true"))
    path.write_text(path.read_text() + path.read_text())
    assert desk.plan("--evidence", path.parent)[0] == INTEGRITY


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
    assert "alerts.yaml" in stderr


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
