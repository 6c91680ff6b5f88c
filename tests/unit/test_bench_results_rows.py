"""The table of a result: a row for each quantity, and in each row what it is of."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from slimgpt_bench.results.quality_words import NOT_MEASURED, in_words
from slimgpt_bench.results.rows import COLUMNS, rows, unit_of, write_table
from tests import result_samples as samples

DOCUMENTS = [
    samples.latency(),
    samples.load()[0],
    samples.compare(),
    samples.capacity(),
    samples.judged(),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d["kind"])
def test_every_row_names_the_model_its_digest_and_its_quality(document):
    found = list(rows(document))
    assert found
    assert all(set(row) <= set(COLUMNS) for row in found)
    for row in found:
        assert row["artefact"].startswith("llama-7b")
        assert row["artefact_digest"] == samples.digest(row["artefact"])
        dense = row["artefact"] == "llama-7b"
        assert row["quality"] == NOT_MEASURED if dense else "perplexity" in row["quality"]


def test_times_have_their_unit_and_their_place():
    found = {
        (r["batch"], r["prompt_tokens"], r["quantity"]): r
        for r in rows(samples.latency())
        if "batch" in r
    }
    row = found[8, 1024, "tpot_s"]
    cell = samples.cell(8, 1024, 128, speed=1.2)
    assert row["unit"] == "s"
    assert row["value"] == cell["tpot_s"]["median"]
    assert [row["low"], row["high"]] == cell["tpot_s"]["interval"]
    assert row["p99"] == "insufficient"


def test_a_comparison_has_both_sides_and_the_ratio_with_its_verdict():
    found = [r for r in rows(samples.compare()) if r["quantity"].startswith("tpot_s")]
    assert [r["artefact"] for r in found[:3]] == ["llama-7b", "llama-7b-p25", "llama-7b-p25"]
    assert found[2]["quantity"] == "tpot_s.dense_over_pruned"
    assert found[2]["verdict"] == "faster"


def test_a_third_model_has_its_own_rows():
    found = [r for r in rows(samples.compare(third=1.1)) if r["quantity"].startswith("e2e_s")]
    assert [(r["artefact"], r["quantity"]) for r in found[3:6]] == [
        ("llama-7b-shallow", "e2e_s"),
        ("llama-7b-shallow", "e2e_s.dense_over_third"),
        ("llama-7b-p25", "e2e_s.third_over_pruned"),
    ]


def test_numbers_of_the_baseline_are_those_of_the_dense_model():
    number = samples.labelled(9, "replicas")
    baseline = {"artefact": samples.artefact(), "plan": {"replicas": number}}
    found = {r["quantity"]: r for r in rows(samples.capacity(baseline=baseline))}
    assert found["baseline.plan.replicas"]["artefact"] == "llama-7b"
    assert found["plan.replicas.point"]["artefact"] == "llama-7b-p25"


def test_levels_tell_what_was_offered_and_how_many_were_answered():
    document, _ = samples.load()
    sent = [r for r in rows(document) if r["quantity"] == "requests.sent"]
    assert [r["rate_rps"] for r in sent] == [1, 2, 4, 8, 10]


def test_planned_numbers_keep_their_label():
    found = {r["quantity"]: r for r in rows(samples.capacity())}
    assert found["plan.replicas.upper"]["value"] == 30
    assert found["money.price_per_accelerator_hour"]["label"] == "assumed"


def test_an_invalid_level_is_not_valid_in_its_rows():
    document = samples.latency()
    document["cells"][1] |= {"valid": False, "problems": ["not steady"]}
    states = {(r["batch"], r["prompt_tokens"]): r["valid"] for r in rows(document) if "batch" in r}
    assert states == {(1, 128): True, (1, 1024): False, (8, 128): True, (8, 1024): True}


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)"])
def test_no_name_becomes_a_formula(tmp_path: Path, name):
    document = samples.latency(artefact=samples.artefact(name))
    write_table(tmp_path / "t.csv", document)
    with (tmp_path / "t.csv").open(newline="") as file:
        assert {row["artefact"] for row in csv.DictReader(file)} == {f"'{name}"}


def test_numbers_below_zero_stay_numbers(tmp_path: Path):
    document = samples.judged()
    document["models"][0]["texts"][0]["kl"] = -0.25
    write_table(tmp_path / "t.csv", document)
    assert ",-0.25," in (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("ttft_s", "s"),
        ("decode_tokens_per_s", "tokens/s"),
        ("goodput_rps", "requests/s"),
        ("peak_allocated_bytes", "bytes"),
        ("n", ""),
    ],
)
def test_a_name_tells_its_unit(name, unit):
    assert unit_of(name) == unit


def test_quality_in_words_tells_texts_and_tasks():
    told = samples.quality(7.0) | {"tasks": {"arc": {"acc": 0.5, "acc_norm": 0.55}}}
    assert in_words(told) == (
        "wikitext2 (window 2048, raw): perplexity 7, dense 5.68, KL 0.31; arc: acc_norm 0.55"
    )
    assert in_words({"layers": samples.layer_errors()}) == NOT_MEASURED
