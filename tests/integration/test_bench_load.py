"""``slimgpt bench load`` on servers that behave, by the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt.demo import MODEL
from slimgpt_bench.artefact import describe
from slimgpt_bench.load.key import KEY_VARIABLE
from slimgpt_bench.results import read
from tests.load_command import CLOSED, SHORT, Load
from tests.mock_openai import Truth, serving

QUICK = Truth(ttft_s=0.01, gap_s=0.002)


@pytest.fixture
def load(capsys: pytest.CaptureFixture[str]) -> Load:
    return Load(capsys)


def test_a_document_tells_all_and_is_what_is_saved(load, tmp_path):
    saved = tmp_path / "run"
    with serving(QUICK) as url:
        told = load(url, *CLOSED, "--save", saved)
    assert (told.code, told.lines) == (0, [])
    document = told.document
    assert document == read(saved)
    assert (document["schema"], document["kind"], document["valid"]) == (1, "load", True)
    assert document["target"]["server"]["version"] == "1.0"
    level = document["levels"][0]
    assert level["offered"] == {"concurrency": 2}
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "requests", "goodput_rps"):
        assert document[name] == level[name]
    assert document["requests"] == {"sent": 12, "ok": 12, "failed": {}}
    assert level["ttft_s"]["p99"] == "insufficient"
    assert level["tokens"]["output"] == level["tokens"]["asked_output"] == 48
    rows = [json.loads(x) for x in (saved / "requests.jsonl").read_text().splitlines()]
    measured = [x for x in rows if x["phase"] == "measured"]
    assert len(measured) == 12
    assert all(x["ok"] and x["ttft_s"] >= 0.01 and x["prompt_tokens"] == 6 for x in measured)


def test_a_table_is_for_people(capsys):
    with serving(QUICK) as url:
        assert run(["bench", "load", url, *SHORT, *CLOSED]) == 0
    out = capsys.readouterr().out
    assert "2 at a time" in out
    assert "times run from the scheduled send" in out
    assert "insufficient" in out


def test_an_open_loop_has_levels_and_a_seed(load):
    with serving(QUICK) as url:
        told = load.calm(
            url, "--rate", "20,40", "--duration", "1.5", "--warmup", "0.2s", "--seed", 5
        )
    assert told.code == 0
    levels = told.document["levels"]
    assert [x["offered"] for x in levels] == [{"rate_rps": 20}, {"rate_rps": 40}]
    assert [x["duration_s"] for x in levels] == pytest.approx([1.5, 1.5])
    assert [x["requests"]["sent"] for x in levels] == pytest.approx([30, 60], abs=25)
    assert told.document["load"]["seed"] == 5


def test_a_trace_is_replayed(load, tmp_path):
    path = tmp_path / "trace.jsonl"
    rows: list[dict[str, Any]] = [
        {"at_s": i / 20, "prompt_tokens": i + 1, "output_tokens": 3} for i in range(12)
    ]
    rows[3] = {"at_s": 0.15, "prompt": "Once upon a time", "output_tokens": 2}
    path.write_text("\n".join(map(json.dumps, rows)))
    with serving(QUICK) as url:
        options = ["bench", "load", url, "--trace", str(path), "--vocabulary", "50", "--json"]
        assert run([*options, "--quiet", "--save", str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "requests.jsonl").read_text().splitlines()
    found = [json.loads(x) for x in lines]
    assert [x["scheduled_s"] for x in found] == pytest.approx([i / 20 for i in range(12)])
    assert [x["output_tokens"] for x in found] == [3, 3, 3, 2] + 8 * [3]


def test_chat_is_asked_with_words_that_the_server_counts(load):
    with serving(QUICK) as url:
        told = load(url, *CLOSED, "--endpoint", "chat", "--prompt", "43")
    assert told.code == 0
    assert told.document["workload"]["source"]["tokens_per_word"] == 2
    assert told.document["levels"][0]["tokens"]["prompt"] == 12 * 43


def test_prompts_of_a_dataset_are_sent(load, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"number {i}"}) for i in range(5)))
    with serving(QUICK) as url:
        options = ["bench", "load", url, *CLOSED, "--dataset", str(path), "--quiet", "--output=2"]
        assert run(options) == 0


def test_the_artefact_that_is_served_is_in_the_result(load):
    digest = describe(MODEL).digest
    with serving(Truth(ttft_s=0.01, gap_s=0.002, digest=digest)) as url:
        told = load(url, *CLOSED, "--artefact", MODEL)
    assert told.code == 0
    assert told.document["artefact"]["digest"] == digest
    assert told.document["target"]["verified"]


def test_a_key_opens_the_server_and_is_told_nobody(load, tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text("sesame")
    path.chmod(0o600)
    with serving(Truth(ttft_s=0.01, gap_s=0.002, key="sesame")) as url:
        assert "asks for a key (401)" in load(url, *CLOSED).lines[0]
        told = load(url, *CLOSED, "--api-key-file", path)
        monkeypatch.setenv(KEY_VARIABLE, "sesame")
        assert load(url, *CLOSED).code == told.code == 0
    assert "sesame" not in json.dumps(told.document)


@pytest.mark.slow
def test_a_sweep_finds_what_the_server_can_do_and_goes_beyond(load):
    truth = Truth(ttft_s=0.04, gap_s=0.02 / 3, places=2)  # 60 ms: 33 a second
    with serving(truth) as url:
        told = load.calm(url, "--sweep", "--duration", "1", "--warmup", "3")
    assert told.code == 0, told.lines
    found = told.document["search"]["saturation_rps"]
    assert found == pytest.approx(2 / truth.service_s(4), rel=0.15)
    levels = told.document["levels"]
    assert [x["offered"]["rate_rps"] / found for x in levels] == pytest.approx(
        [0.25, 0.5, 0.75, 0.9, 1.0, 1.1], rel=0.01
    )
    assert not levels[0]["saturated"]


# -- percentiles that were asked for ------------------------------------------------------------


def test_too_few_requests_for_what_is_required_say_how_many_are_needed(load):
    with serving(QUICK) as url:
        told = load(url, *CLOSED, "--require", "p99")
        assert told.code == 3
        [line] = told.lines
        assert "--require p99 needs 299 answers, and there are 12" in line
        assert "give --requests 299" in line
        assert load.calm(url, *CLOSED, "--requests", "60", "--require", "p95").code == 0
