"""``slimgpt compress``: a job that can't end well says so in time, in the terms of its recipe."""

import json
from xml.etree import ElementTree as ET

import pytest

from slimgpt.demo import CALIBRATION, EVALUATION
from tests.command_line import USAGE, Desk
from tests.integration.test_compress import GATE, WITH_TASKS, compress, report, write_recipe
from tests.tiny_models import Tiny


def test_a_recovery_that_helps_nothing_is_a_gate_missed(desk: Desk) -> None:
    write_recipe(desk)
    ended = desk.run(compress(desk, "--set", "recover.learning_rate=1.0"))
    assert ended.code == GATE, ended
    assert "recovery" in ended.stderr
    assert not desk.out.exists()
    again = desk.run(compress(desk, "--set", "recover.learning_rate=1.0"))
    assert (again.code, again.stderr.splitlines()[-1]) == (GATE, ended.stderr.splitlines()[-1])


def test_a_training_that_diverges_is_a_gate_missed_and_the_document_is_on_stdout(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no number is not reached with every build of torch, so the loss is made one."""
    monkeypatch.setattr(
        "slimgpt.recover.trainer.training_loss", lambda logits, *_: logits.sum() * float("nan")
    )
    write_recipe(desk, evaluate=None, gates=None)
    ended = desk.run(compress(desk, "--json", "--quiet"))
    assert ended.code == GATE, ended
    (gate,) = json.loads(ended.stdout)["gates"]
    assert (gate["name"], gate["measured"], gate["passed"]) == ("recovery", None, False)
    (line,) = ended.stderr.splitlines()
    assert "recovery: not measured" in line
    assert "recover.learning_rate" in line
    assert not desk.out.exists()
    suite = ET.parse(desk.root / "out.report" / "junit.xml").getroot()
    (failure,) = suite.iter("failure")
    assert failure.get("type") == "unmeasured"
    assert [s["stage"] for s in report(desk)["stages"]] == ["source", "prune", "recover"]


def test_training_data_that_is_too_little_is_found_before_anything_is_pruned(desk: Desk) -> None:
    (desk.root / "few.jsonl").write_text('{"text": "a b c"}\n' * 3)
    write_recipe(desk, recover={"data": "few.jsonl"})
    ended = desk.run(compress(desk, "--quiet"))
    assert ended.code == USAGE
    assert "recover.data has 1 different usable examples" in ended.stderr
    assert {p.name for p in desk.out.with_name("out.partial").iterdir()} == {
        "run.json",
        "slimgpt.lock",
    }
    write_recipe(desk, recover=None)
    assert desk.run(compress(desk, "--quiet")).code == 0


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("prune.sequence_length=100000", "prune.sequence_length 100000 is beyond"),
        ("prune.samples=100000", "too short for 100000 windows: give more rows, or lower prune."),
        ("prune.tensor_parallel=17", "prune.tensor_parallel 17 divides no head count"),
        ("recover.max_length=100000", "recover.max_length 100000 is beyond"),
        ("evaluate.num_fewshot=50", "evaluate.num_fewshot 50 needs more than the 40 questions"),
    ],
)
def test_what_a_stage_refuses_is_said_in_keys_of_the_recipe(
    desk: Desk, setting: str, says: str
) -> None:
    write_recipe(desk, evaluate=WITH_TASKS)
    ended = desk.run(compress(desk, "--quiet", "--set", setting))
    assert ended.code == USAGE
    (line,) = ended.stderr.splitlines()
    assert says in line
    assert "--" not in line


@pytest.mark.parametrize(
    "setting",
    [
        f"evaluate.texts=[{{file: {EVALUATION}, window: 32}}]",
        f"recover={{data: {CALIBRATION}, distill_weight: 0.5}}",
        "prune.calibration=self",
    ],
)
def test_a_dense_model_that_can_t_be_run_is_found_before_anything_is_pruned(
    tiny: Tiny, desk: Desk, setting: str
) -> None:
    baichuan = str(tiny.dense("baichuan").path)
    command = ["compress", baichuan, str(desk.out), "--ratio", "0.2", "--set", setting]
    desk.refuses(command, USAGE, "convert it first")
