"""What `slimgpt capacity` can't plan with: each refused in a line, with its exit code."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slimgpt_bench.artefact import describe
from slimgpt_bench.results import read, save
from tests.capacity_desk import SWEEP, Desk
from tests.capacity_plans import Outcome, load_result, save_load, write_slo, write_traffic

USAGE, UNRESOLVED, ENVIRONMENT, INTEGRITY = 2, 3, 4, 5


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


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


@pytest.mark.parametrize(
    ("key", "value"),
    [("ttft_s", None), ("e2e_s", float("nan")), ("tpot_s", "1"), ("level", None), ("ok", 1)],
)
def test_requests_that_are_none_are_damage(desk: Desk, key: str, value: object) -> None:
    run = desk.sweep()
    result, requests = run / "result.json", run / "requests.jsonl"
    told = json.loads(result.read_text())
    del told["files"]  # as the document that is printed with --json
    result.write_text(json.dumps(told))
    rows = [json.loads(line) for line in requests.read_text().splitlines()]
    rows[7][key] = value
    requests.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, stderr = desk.plan("--evidence", run)
    assert code == INTEGRITY
    assert "requests.jsonl is damaged" in stderr
