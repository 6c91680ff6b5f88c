"""``slimgpt bench load`` on servers that behave and on servers that do not, by the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt.demo import MODEL
from slimgpt_bench.artefact import describe
from slimgpt_bench.load.key import KEY_VARIABLE
from slimgpt_bench.results import read
from tests.mock_openai import Truth, serving

QUICK = Truth(ttft_s=0.01, gap_s=0.002)
SHORT = ("--prompt", "6", "--output", "4", "--vocabulary", "50", "--quiet")
CLOSED = ("--concurrency", "2", "--requests", "12", "--warmup", "0")


@dataclass(frozen=True)
class Told:
    """How a command ended.

    Attributes:
        code: its exit code.
        document: what it printed; empty for none.
        lines: of its errors.
    """

    code: int
    document: Mapping[str, Any]
    lines: list[str]


@pytest.fixture
def load(capsys):
    """Runs the command with ``--json``."""

    def told(url: str, *options: object) -> Told:
        code = run(["bench", "load", url, *SHORT, "--json", *map(str, options)])
        out, err = capsys.readouterr()
        return Told(code, json.loads(out) if out else {}, err.splitlines())

    return told


# -- servers that behave ------------------------------------------------------------------------


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
        told = load(url, "--rate", "20,40", "--duration", "1.5", "--warmup", "0.2s", "--seed", 5)
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
        told = load(url, "--sweep", "--duration", "1.5", "--warmup", "3")
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
        assert load(url, *CLOSED, "--requests", "60", "--require", "p95").code == 0


# -- servers that do not behave -----------------------------------------------------------------

BROKEN: dict[str, tuple[Truth, str]] = {
    "streams nothing": (Truth(failures={"no_tokens": 1.0}), "(no_tokens 12)"),
    "an error with status 200": (Truth(failures={"error_instead": 1.0}), "(error_in_stream 12)"),
    "an error inside": (Truth(failures={"error_in_stream": 1.0}), "(error_in_stream 12)"),
    "a page": (Truth(failures={"page": 1.0}), "(bad_response 12)"),
    "breaks off": (Truth(failures={"truncated": 1.0}), "(truncated 12)"),
    "fails": (Truth(failures={"http_500": 1.0}), "(http_5xx 12)"),
    "is busy": (Truth(failures={"http_429": 1.0}), "(http_4xx 12)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_no_success_is_no_measurement(name, load):
    truth, words = BROKEN[name]
    with serving(truth) as url:
        told = load(url, *CLOSED, "--accept-errors", "0.99")
    assert told.code == 3
    assert told.lines == [f"slimgpt: at 2 at a time: none of 12 requests succeeded {words}"]
    assert not told.document["valid"]
    assert told.document["ttft_s"]["median"] == "insufficient"
    assert told.document["requests"]["ok"] == 0


def test_a_server_that_never_ends_is_a_timeout(load):
    with serving(Truth(failures={"hang": 1.0})) as url:
        told = load(url, "--concurrency", "3", "--requests", "3", "--timeout", "0.3")
    assert told.code == 3
    assert told.document["requests"]["failed"] == {"timeout": 3}


WRONG_COUNTS = {
    "prompt": "reports wrong token counts",
    "output": "reports wrong token counts",
    "missing": "came without a usage",
}


@pytest.mark.parametrize("kind", WRONG_COUNTS)
def test_a_server_that_counts_wrong_is_found_out(kind, load):
    with serving(Truth(ttft_s=0.01, gap_s=0.002, wrong_usage=kind)) as url:
        told = load(url, *CLOSED)
    assert told.code == 3
    assert WRONG_COUNTS[kind] in told.lines[0]


def test_answers_that_are_shorter_than_asked_are_found_out(load):
    with serving(Truth(ttft_s=0.01, gap_s=0.002, stops_after=2)) as url:
        told = load(url, *CLOSED)
        assert "12 of 12 answers ended before the asked length" in told.lines[0]
        assert load(url, *CLOSED, "--respect-eos").code == 0
    assert told.code == 3


def test_an_empty_first_chunk_is_no_token(load):
    with serving(Truth(ttft_s=0.1, gap_s=0.002, opening=True)) as url:
        told = load(url, *CLOSED)
    assert told.document["ttft_s"]["median"] > 0.09


def test_a_server_that_dies_leaves_failures_and_unmeasured_levels(load):
    truth = Truth(ttft_s=0.01, gap_s=0.002, dies_after=15)
    with serving(truth) as url:
        told = load(url, "--concurrency", "1,2", "--requests", "30", "--warmup", "0")
    assert told.code == 3
    requests = told.document["requests"]
    assert (requests["sent"], requests["ok"]) == (30, 14)
    assert set(requests["failed"]) == {"connect"}
    words = "\n".join(told.lines)
    assert "16 of 30 requests failed" in words
    assert f"the server at {url} was gone before the end" in words
    assert "levels that were not measured: 2 at a time" in words
    assert len(told.document["levels"]) == 1


def test_a_rate_beyond_the_client_is_the_clients_fault(load):
    with serving(QUICK) as url:
        told = load(url, "--rate", "100000", "--duration", "20", "--timeout", "3")
    assert told.code == 3
    assert "the client was saturated: it gave up" in told.lines[0]
    assert told.document["levels"][0]["client"]["saturated"]


def _slo(path: Path, bound: float) -> Path:
    path.write_text(f"schema: 1\nobjectives: {{ttft_s: {bound}}}\nattainment: 0.9\n")
    return path


def test_an_slo_that_no_rate_meets_is_told_with_the_best_that_was_seen(load, tmp_path):
    with serving(Truth(ttft_s=0.1, gap_s=0.002)) as url:
        told = load(url, "--find-rate", "--slo", _slo(tmp_path / "slo.yaml", 0.05), "--duration=2")
    assert told.code == 3
    [line] = told.lines
    assert "--find-rate found no rate that meets the SLO: even one request at a time" in line
    assert "at best 0.0% of the requests met every bound" in line


@pytest.mark.slow
def test_the_rate_that_is_found_is_one_that_the_queue_allows(load, tmp_path):
    truth = Truth(ttft_s=0.06, gap_s=0.02, places=1)  # 120 ms: never more than 8.3 a second
    with serving(truth) as url:
        slo = _slo(tmp_path / "slo.yaml", 0.4)
        told = load(url, "--find-rate", "--slo", slo, "--duration", "3", "--rate", "4")
    assert told.code == 0, told.lines
    search = told.document["search"]
    assert 2 <= search["rate_rps"] <= 1 / truth.service_s(4)
    level = told.document["levels"][0]
    assert level["offered"] == {"rate_rps": search["rate_rps"]}
    assert level["attainment"]["interval"][0] >= 0.9


# -- requests that the server will never take ---------------------------------------------------


def test_what_the_server_refuses_every_time_is_told_before_the_measurement(load):
    with serving(Truth(failures={"http_400": 1.0})) as url:
        told = load(url, *CLOSED)
    assert (told.code, told.document) == (2, {})
    assert f"{url} refuses such requests: 400: made to fail" in told.lines[0]


def test_lengths_beyond_the_context_are_refused(load):
    with serving(Truth(context=9)) as url:
        told = load(url, *CLOSED)
    assert told.code == 2
    assert "--prompt up to 6 and --output up to 4 are beyond the 9 tokens" in told.lines[0]


def test_another_model_than_the_server_has_is_refused(load):
    with serving(Truth(models=("a", "b"))) as url:
        assert "serves a, b: say which with --model" in load(url, *CLOSED).lines[0]
        told = load(url, *CLOSED, "--model", "c")
    assert told.code == 2
    assert "--model c is not served" in told.lines[0]
    with serving(Truth(models=())) as url:
        assert "does not say which models it has" in load(url, *CLOSED).lines[0]
        assert load(url, *CLOSED, "--model", "c").code == 0


def test_another_artefact_than_is_served_is_refused(load):
    with serving(Truth(digest="0" * 64)) as url:
        told = load(url, *CLOSED, "--artefact", MODEL)
    assert told.code == 2
    assert "is not what" in told.lines[0]
