"""What is on the page: verdicts, numbers, problems; and what never gets onto one chart."""

from __future__ import annotations

import re
from typing import Any

import pytest

from slimgpt_bench.report.page import render
from slimgpt_bench.report.runs import gather
from tests import result_samples as samples
from tests.report_pages import page_of

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}</title></style><script>x()</script>"


def everything() -> list[Any]:
    return [
        samples.compare(),
        samples.latency(),
        samples.load(),
        samples.load(6.5, samples.artefact()),
        samples.capacity(),
        samples.judged(),
    ]


def test_everything_is_on_one_page_that_needs_nothing_else(tmp_path):
    page = page_of(tmp_path, *everything(), manifests={"pruned": samples.manifest()})
    for title in (
        *("Speed against dense", "Quality and size", "Gates", "Widths of the layers"),
        *("Error by layer", "Latency", "Memory", "Load", "Capacity", "Where this is from"),
    ):
        assert title in page.words
    assert not {"script", "iframe", "img", "object"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("href", "src", "action"):
            assert value is not None
            assert value.startswith(("#", "data:"))
    html = render(gather([tmp_path / "run0"]))
    assert "url(" not in html
    assert "@import" not in html


def test_equal_inputs_give_equal_bytes(tmp_path):
    page_of(tmp_path, *everything())
    paths = [tmp_path / f"run{i}" for i in range(6)]
    assert render(gather(paths)) == render(gather(paths))


def test_the_verdict_is_first_and_has_its_interval(tmp_path):
    page = page_of(tmp_path, samples.compare(1.24))
    found = samples.compare(1.24)["tpot_s"]
    said = f"llama-7b-p25 generates {found['ratio']:.2f} [1.23, 1.25] times as fast as llama-7b"
    assert said in page.words
    assert page.words.index(said) < page.words.index("Intervals are 95 %")
    assert "24.0 % fewer parameters" in page.words
    assert "at a perplexity of 7.05 against 5.68 on wikitext2" in page.words


@pytest.mark.parametrize(
    ("speed", "runs", "said"),
    [
        (0.8, 6, "llama-7b-p25 is slower than llama-7b"),
        (1.0, 6, "llama-7b-p25 generates as fast as llama-7b"),
        (1.2, 2, "Whether llama-7b-p25 generates faster than llama-7b can't be told"),
    ],
)
def test_other_verdicts_are_told_as_plainly(tmp_path, speed, runs, said):
    assert said in page_of(tmp_path, samples.compare(speed, runs)).words


def test_a_comparison_that_is_not_valid_has_no_verdict(tmp_path):
    document = samples.compare(valid=False, problems=["the machine was busy"])
    page = page_of(tmp_path, document)
    assert "The comparison of llama-7b-p25 with llama-7b is not valid." in page.words
    assert "Run 1, compare, is not valid: the machine was busy" in page.words
    assert "times as fast as llama-7b" not in page.words


def test_problems_of_levels_and_failures_are_shown(tmp_path):
    document, requests = samples.load()
    document["levels"][3] |= {
        "valid": False,
        "problems": ["the client was saturated"],
        "requests": {"sent": 320, "ok": 300, "failed": {"http_5xx": 20}},
    }
    page = page_of(tmp_path, (document, requests))
    assert "the client was saturated" in page.words
    assert "300 of 320 20 http_5xx" in page.words
    assert "not valid" in page.words


def test_a_speed_without_a_quality_says_that_it_has_none(tmp_path):
    pruned = samples.artefact("bare", 0.75, quality={"layers": samples.layer_errors()})
    page = page_of(tmp_path, samples.compare(pruned=pruned, artefact=pruned))
    assert "its quality was not measured" in page.words
    assert "not measured" in page.words


def test_too_few_samples_are_printed_as_such(tmp_path):
    document = samples.latency(cells=[samples.cell(1, 128, 128, runs=2)])
    page = page_of(tmp_path, document)
    assert "insufficient" in page.words.replace("“insufficient”", "")


def test_runs_of_other_workloads_tokenizers_or_engines_are_drawn_apart(tmp_path):
    other = samples.artefact("other", tokenizer_digest=samples.digest("another"))
    documents = [
        samples.load(),
        samples.load(6.5, samples.artefact()),
        samples.load(7, other),
        samples.load(5, samples.artefact("moved"), workload={"digest": samples.digest("w")}),
    ]
    page = page_of(tmp_path, *documents)
    charts = [
        v for k, v in page.attributes if k == "aria-labelledby" and v and "load-" in v and " " in v
    ]
    assert {re.findall(r"load-\d", c)[0] for c in charts} == {"load-0", "load-1", "load-2"}
    names = [t.strip() for t in page.text]
    assert "llama-7b-p25, llama-7b" in names
    assert {"other", "moved"} <= set(names)


def test_latencies_of_another_engine_are_drawn_apart(tmp_path):
    page = page_of(tmp_path, samples.latency(), samples.latency(engine="onnx"))
    charts = {
        v
        for k, v in page.attributes
        if k == "aria-labelledby" and v and "latency-" in v and " " in v
    }
    assert len(charts) == 4


def test_sections_without_data_are_left_out(tmp_path):
    page = page_of(tmp_path, manifests={"alone": samples.manifest()})
    assert "Widths of the layers" in page.words
    for title in ("Latency", "Load", "Capacity", "Memory", "Speed against dense"):
        assert title not in page.words


def test_hostile_names_stay_text(tmp_path):
    artefact = samples.artefact(HOSTILE, 0.75, dtype=HOSTILE)
    document = samples.latency(
        artefact=artefact, problems=[HOSTILE], engine=HOSTILE, command=[HOSTILE]
    )
    load, requests = samples.load(
        model=artefact, target={"url": HOSTILE, "model": None, "server": {}}
    )
    manifest = samples.manifest()
    manifest["gates"][0]["name"] = HOSTILE
    manifest["quality"]["texts"][0]["text"] = HOSTILE
    page = page_of(tmp_path, document, (load, requests), manifests={"bad": manifest})
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("style") == 1
    assert page.tags.count("title") == 1 + page.tags.count("desc")
    assert "{{ 7*7 }}" in page.words


def test_every_chart_has_a_name_a_description_and_its_numbers_in_a_table(tmp_path):
    page = page_of(tmp_path, *everything())
    drawings = [v for k, v in page.attributes if k == "aria-labelledby" and v and v.endswith("-d")]
    ids = [v for k, v in page.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    assert drawings
    for names in drawings:
        assert set(names.split()) <= set(ids)
    assert page.tags.count("figure") == len(drawings)
    assert page.tags.count("table") >= 15
