"""Options of ``slimgpt bench load`` that can't be met: each is refused before anything is sent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt.errors import UsageError
from slimgpt_bench.load.key import KEY_VARIABLE, read_key
from slimgpt_bench.load.options import LoadOptions, Warmup, check
from slimgpt_bench.load.target import plain_url

URL = "http://127.0.0.1:1"


def _refused(capsys: pytest.CaptureFixture[str], *options: str, url: str = URL) -> str:
    """The one line of a command that was given this."""
    assert run(["bench", "load", url, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    return line


WRONG: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "what load to put on the server is not said: give --rate 1,2,4"),
    "two loads": (["--rate", "1", "--sweep"], "--rate and --sweep are different loads"),
    "three": (["--concurrency", "1", "--find-rate"], "--concurrency and --find-rate"),
    "no slo": (["--find-rate"], "--find-rate searches the highest rate that meets an SLO"),
    "rates": (["--trace", "x", "--rate", "1,2"], "--trace takes one --rate"),
    "no number": (["--rate", "fast"], "--rate fast: give numbers with commas between"),
    "rate": (["--rate", "0"], "--rate 0: give requests a second, above 0"),
    "rate, nan": (["--rate", "nan"], "--rate nan: give requests a second"),
    "places": (["--concurrency", "0"], "--concurrency 0: give requests, 1 to"),
    "fraction": (["--concurrency", "1.5"], "--concurrency 1.5: give whole numbers"),
    "infinite": (["--concurrency", "inf"], "--concurrency inf: give whole numbers"),
    "duration": (["--rate", "1", "--duration", "0"], "--duration 0: give seconds"),
    "timeout": (["--rate", "1", "--timeout", "-1"], "--timeout -1: give seconds"),
    "requests": (["--rate", "1", "--requests", "0"], "--requests 0: give a whole number"),
    "vocabulary": (["--rate", "1", "--vocabulary", "1"], "--vocabulary 1: give how many token ids"),
    "cap": (["--rate", "1", "--concurrency-cap", "0"], "--concurrency-cap 0: give 1 or more"),
    "two caps": (["--concurrency", "1", "--concurrency-cap", "1"], "leave one of them out"),
    "burstiness": (["--rate", "1", "--burstiness", "0"], "--burstiness 0: give above 0"),
    "no gamma": (["--rate", "1", "--burstiness", "2"], "add --arrival gamma"),
    "errors": (["--rate", "1", "--accept-errors", "1"], "--accept-errors 1: give 0 to below 1"),
    "warm-up": (["--rate", "1", "--warmup", "soon"], "--warmup soon: give requests, like 10"),
    "body": (["--rate", "1", "--extra-body", "{"], "--extra-body is no JSON"),
    "body, list": (["--rate", "1", "--extra-body", "[]"], "--extra-body is no object"),
    "ours": (["--rate", "1", "--extra-body", '{"stream": false}'], "--extra-body sets stream"),
    "slo": (["--rate", "1", "--slo", "/nowhere"], "--slo /nowhere can't be read"),
    "artefact": (["--rate", "1", "--artefact", "/nowhere"], "--artefact /nowhere is no directory"),
    "tokenizer": (["--rate", "1", "--tokenizer", "/x"], "--tokenizer /x is no directory"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_met_is_refused_in_one_line(name, capsys):
    options, why = WRONG[name]
    assert why in _refused(capsys, *options)


def test_a_search_decides_its_requests(tmp_path, capsys):
    slo = tmp_path / "slo.yaml"
    slo.write_text("schema: 1\nobjectives: {ttft_s: 1}\nattainment: 0.9\n")
    options = ("--find-rate", "--slo", str(slo), "--requests", "9")
    assert "leave --requests out" in _refused(capsys, *options)


def test_a_result_is_not_written_over_another_and_that_is_said_first(tmp_path, capsys):
    said = _refused(capsys, "--rate", "1", "--save", str(tmp_path))
    assert f"--save {tmp_path} exists" in said


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("https://h/v1/", "https://h"),
        ("http://[::1]:8/a/v1", "http://[::1]:8/a"),
    ],
)
def test_an_address_is_taken_with_and_without_its_path(given, plain):
    assert plain_url(given) == plain


@pytest.mark.parametrize(
    "url", ["h:8000", "ftp://h", "http://", "http://h:99999", "http://h?x=1", "file:///etc/passwd"]
)
def test_what_is_no_address_is_refused(url, capsys):
    assert f"{url} is no address" in _refused(capsys, "--rate", "1", url=url)


def test_a_password_in_an_address_is_refused_and_not_repeated(capsys):
    said = _refused(capsys, "--rate", "1", url="http://me:sesame@h:8000")
    assert "carries a password" in said
    assert "sesame" not in said


def test_nobody_at_the_address_is_told(capsys):
    assert run(["bench", "load", URL, "--rate", "1"]) == 4
    [line] = capsys.readouterr().err.splitlines()
    assert f"{URL} does not answer" in line


# -- keys ---------------------------------------------------------------------------------------


def test_a_key_is_read_from_a_file_or_the_environment(tmp_path):
    path = tmp_path / "key"
    path.write_text("sesame\n")
    path.chmod(0o600)
    assert read_key(path, {KEY_VARIABLE: "other"}) == "sesame"
    assert read_key(None, {KEY_VARIABLE: "other"}) == "other"
    assert read_key(None, {}) is None


def test_a_key_that_is_none_or_everybodys_is_refused(tmp_path):
    path = tmp_path / "key"
    path.write_text("sesame")
    path.chmod(0o644)
    with pytest.raises(UsageError, match=r"--api-key-file .* can be read by every user"):
        read_key(path, {})
    with pytest.raises(UsageError, match=f"{KEY_VARIABLE} holds more than a key"):
        read_key(None, {KEY_VARIABLE: "two words"})


def test_a_key_is_not_in_what_is_printed_of_the_options():
    assert "sesame" not in repr(LoadOptions(rates=(1.0,), api_key="sesame"))


# -- modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "mode", "arrival"),
    [
        ({"rates": (1.0,)}, "open", "poisson"),
        ({"rates": (1.0,), "arrival": "gamma", "burstiness": 2.0}, "open", "gamma"),
        ({"concurrency": (1,)}, "closed", "closed"),
        ({"trace": Path("x")}, "trace", "trace"),
        ({"trace": Path("x"), "rates": (3.0,)}, "trace", "trace"),
        ({"sweep": True}, "sweep", "poisson"),
    ],
)
def test_options_say_what_kind_of_load_it_is(options: dict[str, Any], mode, arrival):
    asked = LoadOptions(**options)
    check(asked)
    assert (asked.mode, asked.arrival_kind) == (mode, arrival)


@pytest.mark.parametrize(
    ("text", "warmup"), [("10", Warmup(10)), ("0", Warmup(0)), ("2.5s", Warmup(0, 2.5))]
)
def test_a_warmup_is_in_requests_or_seconds(text, warmup):
    assert Warmup.parse(text) == warmup


def test_without_its_extra_it_says_what_to_install(monkeypatch, capsys):
    for name in [x for x in sys.modules if x.startswith("slimgpt_bench.load.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert run(["bench", "load", URL, "--rate", "1"]) == 4
    [line] = capsys.readouterr().err.splitlines()
    assert "slimgpt bench load needs an optional package" in line
    assert "slimgpt[bench]" in line
