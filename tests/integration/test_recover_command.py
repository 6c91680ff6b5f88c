"""``slimgpt recover``: what reaches stdout, stderr and the log file."""

from __future__ import annotations

import json

import pytest

from slimgpt.demo import CALIBRATION
from slimgpt.release.manifest import read_manifest
from tests.command_line import Desk

LIGHT = [
    *("--batch-size", "8", "--micro-batch", "4", "--max-steps", "3", "--warmup-steps", "1"),
    *("--learning-rate", "5e-3", "--max-length", "96", "--evaluations", "1", "--device", "cpu"),
]


def alpaca_rows(desk: Desk, count: int = 40) -> str:
    path = desk.root / "alpaca.json"
    rows = [
        {"instruction": f"Say {i}.", "input": "", "output": f"Here it is, once more: {i}."}
        for i in range(count)
    ]
    path.write_text(json.dumps(rows))
    return str(path)


def test_json_is_all_that_reaches_stdout_and_quiet_leaves_stderr_empty(desk: Desk) -> None:
    command = ["recover", str(desk.model), str(desk.out), "--data", alpaca_rows(desk), *LIGHT]
    ended = desk.execute([*command, "--json", "--quiet"])
    assert (ended.code, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert set(document) == {
        *("out", "held_out_loss", "best_step", "steps", "merged", "data"),
        *("seconds", "peak_rss_bytes"),
    }
    assert document["held_out_loss"]["after"] < document["held_out_loss"]["before"]
    assert document["steps"] == 3


def test_people_are_told_what_it_was_good_for(desk: Desk) -> None:
    command = ["recover", str(desk.model), str(desk.out), "--data", alpaca_rows(desk), *LIGHT]
    ended = desk.run(command)
    assert ended.code == 0
    words = " ".join(ended.stdout.split())
    assert words.startswith(f"{desk.out}: held-out perplexity ")
    assert "(best at step 3 of 3), merged with logits within " in words


def test_the_log_has_every_look_at_the_held_out_examples(desk: Desk) -> None:
    log = desk.root / "log.jsonl"
    command = ["recover", str(desk.model), str(desk.out), "--data", alpaca_rows(desk), *LIGHT]
    assert desk.run([*command, "--evaluations", "3", "--log-file", str(log)]).code == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "held-out"] == [1, 2, 3]
    stages = [e["stage"] for e in events if e["event"] == "stage"]
    assert stages == [
        "checking weights",
        "held-out loss",
        "recovering",
        "merging",
        "checking the merged model",
        "writing checkpoint",
    ]


@pytest.mark.parametrize("data", ["book.txt", "rows of the demo"])
def test_other_text_trains_too(desk: Desk, data: str) -> None:
    book = desk.root / "book.txt"
    book.write_text("It was a bright cold day in April, and the clocks were striking.\n" * 99)
    given = str(book) if data == "book.txt" else str(CALIBRATION)
    ended = desk.run(["recover", str(desk.model), str(desk.out), "--data", given, *LIGHT, "--json"])
    loss = json.loads(ended.stdout)["held_out_loss"]
    assert loss["after"] < loss["before"]


def test_distilling_takes_half_the_loss_from_the_teacher_unless_told_otherwise(desk: Desk) -> None:
    command = ["recover", str(desk.model), str(desk.out), "--data", alpaca_rows(desk), *LIGHT]
    assert desk.run([*command, "--distill", str(desk.model)]).code == 0
    assert (read_manifest(desk.out) or {})["recipe"]["recovery"]["distill_weight"] == 0.5
