"""``slimgpt evaluate``: its figures of the embedded model, and what they mean."""

import json
import math
from typing import Any

import pytest

from slimgpt.demo import EVALUATION, MODEL
from tests.command_line import Desk

ENTRY = {"value", "tokens", "window", "text", "protocol"}


def evaluate(desk: Desk, *arguments: Any) -> dict[str, Any]:
    ended = desk.run(["evaluate", *map(str, arguments), "--json", "--quiet"])
    assert (ended.code, ended.stderr) == (0, "")
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def test_the_embedded_model_has_the_perplexity_of_its_card(desk: Desk) -> None:
    document = evaluate(desk, MODEL, "--text", EVALUATION)
    assert document.keys() == {"perplexity", "dtype"}
    entry = document["perplexity"]
    assert entry.keys() == ENTRY
    assert entry["value"] == pytest.approx(52.589, abs=0.01)
    assert entry["tokens"] == 128 * 127
    assert (entry["window"], entry["text"]) == (128, "evaluation.jsonl")
    assert entry["protocol"] == "rows of token ids, disjoint windows of 128"
    assert document["dtype"] == "float32"


def test_perplexity_on_own_samples_grows_by_the_divergence(desk: Desk) -> None:
    assert desk.run(desk.prune("--quiet")).code == 0
    own = desk.root / "own.jsonl"
    _write_own_samples(desk, own)
    document = evaluate(desk, desk.out, "--baseline", desk.model, "--text", own, "--window", "64")
    assert document.keys() == {"perplexity", "baseline_perplexity", "kl", "dtype"}
    assert document["kl"].keys() == {"value", "tokens", "unit"}
    pruned, dense = (document[key]["value"] for key in ("perplexity", "baseline_perplexity"))
    assert pruned > dense
    assert math.log(pruned) - math.log(dense) == pytest.approx(document["kl"]["value"], rel=0.15)


def _write_own_samples(desk: Desk, path: Any) -> None:
    from slimgpt.calibration import load_calibration
    from slimgpt.checkpoint.reader import Checkpoint

    own = load_calibration(
        Checkpoint(desk.model), ["self"], samples=256, sequence_length=64, seed=3
    )
    rows = (json.dumps({"input_ids": row}) + "\n" for row in own.windows.tolist())
    path.write_text("".join(rows))


def test_a_model_does_not_diverge_from_itself(desk: Desk) -> None:
    text = desk.root / "x.jsonl"
    text.write_text("".join(EVALUATION.read_text().splitlines(keepends=True)[:8]))
    document = evaluate(desk, desk.model, "--baseline", desk.model, "--text", text)
    assert document["kl"]["value"] == 0
    assert document["perplexity"] == document["baseline_perplexity"]


def test_people_get_the_protocol_beside_the_number(desk: Desk) -> None:
    text = desk.root / "x.txt"
    text.write_text("It was a bright cold day in April.\n" * 99)
    command = ["evaluate", str(desk.model), "--text", str(text), "--window", "32"]
    shown = desk.run(command).stdout
    assert "text as it is, disjoint windows of 32" in " ".join(shown.split())
    assert "perplexity" in shown
    paper = " ".join(desk.run([*command, "--protocol", "paper"]).stdout.split())
    assert "lines joined by blank lines" in paper


def test_the_type_to_compute_in_is_the_users(desk: Desk) -> None:
    text = desk.root / "x.jsonl"
    text.write_text("".join(EVALUATION.read_text().splitlines(keepends=True)[:2]))
    values = {
        dtype: evaluate(desk, desk.model, "--text", text, "--dtype", dtype)
        for dtype in ("float32", "bfloat16")
    }
    assert [values[dtype]["dtype"] for dtype in values] == ["float32", "bfloat16"]
    exact, rounded = (document["perplexity"]["value"] for document in values.values())
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)
