"""``slimgpt bench quality``: several models on the same windows, kept as a result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slimgpt.demo import EVALUATION
from slimgpt_bench.results import read
from tests.command_line import USAGE, Desk


def quality(desk: Desk, *more: str | Path) -> list[str]:
    asked = ["bench", "quality", desk.model, desk.out, "--text", EVALUATION, "--quiet", *more]
    return [str(x) for x in asked]


@pytest.fixture
def pruned(desk: Desk) -> Desk:
    assert desk.run(desk.prune("--quiet")).code == 0
    return desk


def test_every_model_has_its_size_and_its_divergence(pruned: Desk) -> None:
    save = pruned.root / "run"
    ended = pruned.run(quality(pruned, pruned.model, "--json", "--save", str(save)))
    assert (ended.code, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    smaller, same = document["models"]
    assert smaller["texts"][0]["kl"] > 0
    assert same["texts"][0]["kl"] == pytest.approx(0, abs=1e-6)
    assert same["texts"][0]["perplexity"] == smaller["texts"][0]["baseline_perplexity"]
    assert smaller["artefact"]["weight_bytes"] < document["artefact"]["weight_bytes"]
    assert document["valid"]
    kept = read(save)
    assert kept["models"] == document["models"]
    assert kept["workload"]["digest"] == document["workload"]["digest"]


def test_the_table_begins_with_the_dense_model(pruned: Desk) -> None:
    ended = pruned.run(quality(pruned))
    assert ended.code == 0
    rows = ended.stdout.splitlines()
    assert rows[1].split()[0] == "model"
    assert rows[1].split()[-1] == "0"
    assert rows[2].split()[0] == "out"


def test_another_tokenizer_is_refused(pruned: Desk) -> None:
    path = pruned.model / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    pruned.refuses(quality(pruned), USAGE, "has another tokenizer than")


def test_a_taken_place_is_refused_before_anything_is_measured(pruned: Desk) -> None:
    asked = quality(pruned, "--save", str(pruned.model))
    pruned.refuses(asked, USAGE, "--save", "exists: give a directory that does not")
