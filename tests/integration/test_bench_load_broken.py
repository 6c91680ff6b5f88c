"""``slimgpt bench load`` on servers that do not behave, and with what no server can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimgpt.demo import MODEL
from tests.load_command import CLOSED, Load
from tests.mock_openai import Truth, serving

QUICK = Truth(ttft_s=0.01, gap_s=0.002)


@pytest.fixture
def load(capsys: pytest.CaptureFixture[str]) -> Load:
    return Load(capsys)


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
    [line] = told.lines
    said = words.removesuffix(")")  # an example of what came follows
    assert line.startswith(f"slimgpt: at 2 at a time: none of 12 requests succeeded {said}: ")
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


@pytest.mark.slow
def test_a_rate_beyond_the_client_is_the_clients_fault(load):
    with serving(QUICK) as url:
        told = load(url, "--rate", "100000", "--duration", "20", "--timeout", "3")
    assert told.code == 3
    assert "the client was saturated: it gave up" in told.lines[0]
    assert told.document["levels"][0]["client"]["saturated"]


def _slo(path: Path, bound: float) -> Path:
    path.write_text(f"schema: 1\nobjectives: {{ttft_s: {bound}}}\nattainment: 0.8\n")
    return path


def test_an_slo_that_no_rate_meets_is_told_with_the_best_that_was_seen(load, tmp_path):
    with serving(Truth(ttft_s=0.1, gap_s=0.002)) as url:
        told = load.calm(
            url, "--find-rate", "--slo", _slo(tmp_path / "slo.yaml", 0.05), "--duration=2"
        )
    assert told.code == 3
    [line] = told.lines
    assert "--find-rate found no rate that meets the SLO: even one request at a time" in line
    assert "at best 0.0% of the requests met every bound" in line


@pytest.mark.slow
def test_the_rate_that_is_found_is_one_that_the_queue_allows(load, tmp_path):
    truth = Truth(ttft_s=0.012, gap_s=0.004, places=1)  # 24 ms: never more than 42 a second
    with serving(truth) as url:
        slo = _slo(tmp_path / "slo.yaml", 0.1)
        told = load.calm(url, "--find-rate", "--slo", slo, "--duration", "1", "--rate", "16")
    assert told.code == 0, told.lines
    search = told.document["search"]
    assert 8 <= search["rate_rps"] <= 1 / truth.service_s(4)
    level = told.document["levels"][0]
    assert level["offered"] == {"rate_rps": search["rate_rps"]}
    assert level["attainment"]["interval"][0] >= 0.8


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
