"""slo.yaml: what it says of a request, and what is wrong with one that says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimgpt.errors import UsageError
from slimgpt_bench.slo import read_slo

WHOLE = "schema: 1\nobjectives: {ttft_s: 0.5, tpot_s: 0.05}\nattainment: 0.95\n"


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        (tmp_path / "slo.yaml").write_text(text)
        return tmp_path / "slo.yaml"

    return _write


def test_a_request_meets_every_bound_or_none(write):
    slo = read_slo(write(WHOLE))
    assert slo.met_by(ttft_s=0.5, tpot_s=0.05, e2e_s=99)
    assert not slo.met_by(ttft_s=0.51, tpot_s=0.01, e2e_s=1)
    assert not slo.met_by(ttft_s=0.1, tpot_s=0.051, e2e_s=1)
    assert slo.met_by(ttft_s=0.1, tpot_s=None, e2e_s=1)  # one token has no time per further token


def test_the_digest_tells_objectives_apart_and_not_files(write):
    first = read_slo(write(WHOLE))
    assert read_slo(write("# the same\n" + WHOLE)).digest == first.digest
    assert read_slo(write(WHOLE.replace("0.95", "0.9"))).digest != first.digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHOLE.replace("schema: 1", "schema: 2"), ":1: schema 2: Input should be 1"),
        (
            WHOLE.replace("{ttft_s: 0.5, tpot_s: 0.05}", "{}"),
            ":2: objectives: give at least one of",
        ),
        (WHOLE.replace("0.95", "1"), ":3: attainment 1: Input should be less than 1"),
        (
            WHOLE.replace("ttft_s: 0.5", "ttft_s: -1"),
            ":2: objectives.ttft_s -1: Input should be greater",
        ),
        (
            WHOLE.replace("ttft_s: 0.5", "ttft_s: .nan"),
            ":2: objectives.ttft_s nan: Input should be a fin",
        ),
        (WHOLE.replace("ttft_s", "ttft_ms"), ":2: objectives.ttft_ms is no setting"),
        ("- 1", "give some of schema, objectives, attainment"),
        ("a: [", "slo.yaml:1: "),
        ("x" * (2**20 + 1), "bytes"),
    ],
    ids=["schema", "empty", "certain", "negative", "nan", "unknown", "list", "broken", "huge"],
)
def test_what_is_wrong_is_said_with_its_key(write, text, said):
    with pytest.raises(UsageError) as told:
        read_slo(write(text))
    assert said in str(told.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"--slo .*none\.yaml can't be read"):
        read_slo(tmp_path / "none.yaml")
