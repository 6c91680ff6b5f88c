"""Sections of the page: a third model, predictions, memory, plans, searches, repeated runs."""

from __future__ import annotations

from typing import Any

import pytest

from tests import result_samples as samples
from tests.report_pages import page_of


def test_predictions_stand_beside_what_was_achieved(tmp_path):
    place = {"batch": 1, "prompt_tokens": 128, "output_tokens": 128}
    beside = {"predicted": 1.3, "achieved": 1.2, "interval": [1.1, 1.3], "efficiency": 0.92}
    near = {"width": 240, "parameters": -9, "prefill_s": 0.0, "decode_s": 0.0}
    cost = {"width": 243, "aligned": 240, "rows": 96, "ratio": 1.04, "interval": None}
    costly = {"layer": 3, "block": "ffn", "width": 243, "down": near, "up": None}
    times = {"dense": 1e-3, "pruned": 8e-4, "ratio": 1.25}
    layer = {"layer": 0, "decode_s": {"predicted": times, "achieved": None}}
    predicted = {
        "device": {"name": "here"},
        "cells": [place | {"tpot_s": beside}],
        "layers": [layer],
        "costliest_width": costly | {"measured": [cost]},
    }
    page = page_of(tmp_path, samples.compare(predicted=predicted))
    assert "the roofline of this machine predicts" in page.words
    assert "1 × 128 → 128 1.30 1.20 [1.10, 1.30] 0.920" in page.words
    assert "feed-forward of layer 3, 243 wide; the nearest aligned widths are 240." in page.words
    assert "243 240 96 1.04 –" in page.words


def test_one_output_token_is_judged_by_the_whole_time(tmp_path):
    document = samples.compare()
    for cell in document["cells"]:
        cell["output_tokens"] = 1
        cell["tpot_s"] |= {"ratio": "insufficient", "interval": "insufficient"}
        cell["tpot_s"]["verdict"] = "unresolved"
    document["tpot_s"] = document["cells"][0]["tpot_s"]
    page = page_of(tmp_path, document)
    assert "times as fast as llama-7b" in page.words
    assert "speed, end to end" in page.words


def test_a_third_model_is_held_against_both(tmp_path):
    page = page_of(tmp_path, samples.compare(third=1.1))
    assert "llama-7b-shallow against llama-7b" in page.words
    assert "llama-7b-p25 against llama-7b-shallow" in page.words


def test_the_memory_is_told_by_kind_with_the_reason_for_what_is_missing(tmp_path):
    page = page_of(tmp_path, samples.compare())
    assert "Weights files 12.6 GiB 9.54 GiB" in page.words
    assert "Allocator no CUDA device – –" in page.words


def test_a_plan_tells_what_each_number_rests_on(tmp_path):
    baseline = {"artefact": samples.artefact(), "plan": {"replicas": samples.labelled(9, "x")}}
    checked = {
        "rate_rps": 5.96,
        "resolution": "met",
        "predicted": {"ttft_s": 0.2},
        "measured": {"ttft_s": 0.25},
        "error": {"ttft_s": -0.2},
    }
    page = page_of(tmp_path, samples.capacity(baseline=baseline, verification=checked))
    assert "Replicas 22 25 30 replicas measured load result" in page.words
    assert "Per million tokens, output 0.430 USD measured" in page.words
    assert "Verification at 5.96 requests/s: met" in page.words
    assert "TTFT 0.200 0.250 −0.200" in page.words
    said = "The planned traffic takes 30 accelerators (h200) with llama-7b-p25, spares among them; "
    assert f"{said}its rates are measured." in page.words


def test_a_plan_for_the_machine_itself_names_it(tmp_path):
    document = samples.capacity(accelerator={"name": "here"})
    document["replica"]["ttft_floor_s"] = samples.labelled(0.00117, "s", "modelled")
    words = page_of(tmp_path, document).words
    assert "takes 30 accelerators (AMD EPYC 9B14, 2 cores) with" in words
    assert "llama-7b-p25 on AMD EPYC 9B14, 2 cores" in words
    assert "TTFT floor 1.17 ms modelled" in words


def test_a_plan_that_can_not_be_told_says_so(tmp_path):
    document = samples.capacity(valid=False, problems=["no rate meets the SLO"])
    unknown = samples.labelled("insufficient", "replicas")
    document["plan"]["planned_accelerators"] = unknown
    document["plan"]["replicas"] = dict.fromkeys(("lower", "point", "upper"), unknown)
    page = page_of(tmp_path, document)
    assert "replicas: not known" in page.words
    assert "no plan accelerators" not in page.words  # the label stands first
    assert "llama-7b-p25 no plan" in page.words
    assert "Replicas not known not known not known replicas" in page.words
    assert "The planned traffic takes" not in page.words


def test_a_search_for_the_rate_has_the_last_word(tmp_path):
    document, requests = samples.load()
    found = {"kind": "slo", "rate_rps": 2.0, "why": "", "best_attainment": 1.0}
    assert "answers 4 requests/s within the SLO" in page_of(tmp_path, (document, requests)).words
    for i, rate in enumerate((2.0, None)):
        document["search"] = found | {"rate_rps": rate}
        folder = tmp_path / str(i)
        page = page_of(folder, (document, requests))
        assert ("answers 2 requests/s within the SLO" in page.words) == (rate is not None)
        assert ("no measured level meets it" in page.words) == (rate is None)


def _load(**second: Any) -> Any:
    """A sweep whose second level, of 2 requests/s, is changed."""
    document, requests = samples.load()
    document["levels"][1] |= second
    return document, requests


MISSED = {"value": 0.5, "interval": [0.4, 0.6], "n": 99, "effective_n": 99.0}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({}, "answers 4 requests/s within the SLO"),
        ({"attainment": MISSED}, "answers 1 requests/s within the SLO"),
        ({"saturated": True}, "answers 4 requests/s within the SLO"),
        (
            {"attainment": MISSED, "valid": False, "problems": ["half failed"]},
            "answers 1 requests/s within the SLO",
        ),
    ],
    ids=["as it is", "a miss below", "a queue below", "failures below"],
)
def test_a_rate_above_one_that_misses_the_slo_is_no_rate(tmp_path, second, said):
    assert [level["offered"]["rate_rps"] for level in _load()[0]["levels"][:3]] == [1, 2, 4]
    assert said in page_of(tmp_path, _load(**second)).words


def test_a_rate_at_which_the_queue_grows_is_not_within_the_slo(tmp_path):
    document, requests = samples.load()
    for level in document["levels"]:
        level["saturated"] = True
    words = page_of(tmp_path, (document, requests)).words
    assert "requests/s within the SLO" not in words
    assert "no measured level meets it with its whole interval" in words


def test_a_load_that_is_not_valid_bears_nothing_and_says_why(tmp_path):
    document, requests = samples.load()
    document |= {"valid": False, "problems": ["the client was saturated"]}
    words = page_of(tmp_path, (document, requests)).words
    assert "the run is not valid" in words
    assert "no measured level meets it" not in words
    assert "requests/s within the SLO." not in words


def test_an_export_stands_with_the_checkpoint_that_it_names(tmp_path):
    files = {"config.json": "a" * 64, "model.safetensors": "b" * 64}
    lines = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    checkpoint = samples.manifest() | {"files": files}
    exported = samples.manifest() | {"quality": {"layers": samples.layer_errors()}}
    exported["recipe"] = {"export": {"format": "onnx", "model_digest": samples.digest(lines)}}
    page = page_of(tmp_path, manifests={"p25": checkpoint, "p25-onnx": exported})
    assert "p25-onnx is p25, exported: what is said of the quality of p25" in page.words
    assert "its exports are as wide: p25-onnx" in page.words
    assert "not measured" not in page.words
    assert page.words.count("Error of every layer") == 1 + 1  # summary and caption
    (tmp_path / "alone").mkdir()
    alone = page_of(tmp_path / "alone", manifests={"p25-onnx": exported})
    assert "its quality was not measured" in alone.words


def test_two_runs_of_one_model_are_told_apart(tmp_path):
    again = samples.latency(created="2026-11-22T13:00:00Z")
    page = page_of(tmp_path, samples.latency(), again)
    assert "llama-7b-p25, run 1" in page.words
    assert "llama-7b-p25, run 2" in page.words


def test_a_perplexity_that_is_not_finite_is_said_and_not_left_out(tmp_path):
    told = samples.manifest()
    told["quality"]["texts"][0]["perplexity"] = None
    words = page_of(tmp_path, manifests={"broken": told}).words
    assert "at a perplexity that is not finite against 5.68 on wikitext2" in words
    assert "not measured" not in words


def test_a_cell_that_is_not_valid_is_a_cross(tmp_path):
    document = samples.latency()
    document["cells"][0] |= {"valid": False, "problems": ["times drift"]}
    page = page_of(tmp_path, document)
    assert page.words.count(", not valid;") == 2  # in both drawings
