"""Traffic files: rates, lengths, traces, and everything that can be wrong with them."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimgpt.errors import UsageError
from slimgpt_bench.capacity.traffic import read_traffic
from tests.capacity_plans import write_traffic

DAY = [
    {"from": 0, "to": 8, "rate_rps": 0},
    {"from": 8, "to": 20, "rate_rps": 12},
    {"from": 20, "to": 24, "rate_rps": 6},
]


def _trace(path: Path, rows: list[tuple[float, int, int]]) -> Path:
    told = [{"at_s": t, "prompt_tokens": p, "output_tokens": o} for t, p, o in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return path


def test_a_rate_is_peak_and_mean(tmp_path: Path) -> None:
    traffic = read_traffic(write_traffic(tmp_path / "t.yaml", growth=0.5))
    assert traffic.peak_rps == traffic.mean_rps == 40
    assert traffic.planned_peak_rps == 60
    assert traffic.label == "assumed"


def test_hours_give_the_busiest_and_the_mean_of_the_day(tmp_path: Path) -> None:
    traffic = read_traffic(write_traffic(tmp_path / "t.yaml", rate_rps=None, hours=DAY))
    assert traffic.peak_rps == 12
    assert traffic.mean_rps == pytest.approx((8 * 0 + 12 * 12 + 4 * 6) / 24)
    assert [hours for hours, _ in traffic.hours] == [8, 12, 4]


def test_the_peak_of_a_trace_is_its_busiest_minute(tmp_path: Path) -> None:
    rows = [(float(t), 100, 10) for t in range(0, 300, 10)]  # 0.1 a second, five minutes
    rows += [(100 + t / 2, 100, 10) for t in range(120)]  # and 2 a second, for a minute
    _trace(tmp_path / "trace.jsonl", rows)
    told = write_traffic(
        tmp_path / "t.yaml",
        rate_rps=None,
        trace="trace.jsonl",
        prompt_tokens=None,
        output_tokens=None,
    )
    traffic = read_traffic(told)
    assert traffic.peak_rps == pytest.approx(2.1, rel=0.03)
    assert traffic.mean_rps == pytest.approx(150 / 290)
    assert traffic.label == "measured"


def test_lengths_of_a_trace_stay_together(tmp_path: Path) -> None:
    _trace(tmp_path / "trace.jsonl", [(0, 10, 1), (1, 20, 2), (2, 30, 3)])
    path = write_traffic(
        tmp_path / "t.yaml", trace="trace.jsonl", prompt_tokens=None, output_tokens=None
    )
    drawn = read_traffic(path).requests(100, seed=3)
    assert (drawn[:, 0] == 10 * drawn[:, 1]).all()


def test_lengths_are_drawn_as_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "seen.jsonl").write_text('5\n{"prompt_tokens": 7}\n')
    traffic = read_traffic(
        write_traffic(
            tmp_path / "t.yaml",
            prompt_tokens={"file": "seen.jsonl"},
            output_tokens="lognormal:200,100",
        )
    )
    drawn = traffic.requests(4000, seed=0)
    assert set(drawn[:, 0].tolist()) == {5, 7}
    assert drawn[:, 1].mean() == pytest.approx(200, rel=0.05)
    assert np.array_equal(drawn, traffic.requests(4000, seed=0))


def test_lengths_are_read_from_packed_files(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "seen.jsonl.gz", "wt") as file:
        file.write("3\n")
    path = write_traffic(tmp_path / "t.yaml", output_tokens={"file": "seen.jsonl.gz"})
    assert read_traffic(path).output.mean == 3


def test_the_digest_is_of_what_decides_the_plan_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    one = read_traffic(write_traffic(path)).digest
    assert read_traffic(write_traffic(path, price_per_accelerator_hour=3)).digest == one
    assert read_traffic(write_traffic(path, growth=0.1)).digest != one
    assert read_traffic(write_traffic(path, prompt_tokens=511)).digest != one


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rate_rps": 0}, "zero requests"),
        ({"rate_rps": -1}, r"t.yaml:1: rate_rps -1: .*greater than or equal to 0"),
        ({"rate_rps": "many"}, "rate_rps 'many': .*valid number"),
        ({"rate_rps": None}, "no traffic: give rate_rps, hours or a trace"),
        ({"hours": DAY}, "give rate_rps or hours, not both"),
        ({"rate_rps": None, "hours": DAY[1:]}, "hours from 0 to 8 are missing or told twice"),
        ({"rate_rps": None, "hours": DAY[:2]}, "hours from 20 to 24 are missing"),
        (
            {"rate_rps": None, "hours": [*DAY[:2], DAY[1]]},
            "hours from 20 to 8 are missing or told twice",
        ),
        (
            {"rate_rps": None, "hours": [{"from": 3, "to": 3, "rate_rps": 1}]},
            "hours from 3 to 3 end before they begin",
        ),
        ({"rate_rps": None, "hours": []}, "hours: .*at least 1 item"),
        (
            {"rate_rps": None, "hours": [{"from": 0, "to": 24, "rate_rps": 0}]},
            "zero requests",
        ),
        ({"output_tokens": None}, "give prompt_tokens and output_tokens"),
        ({"prompt_tokens": "lognormal:5"}, "prompt_tokens lognormal:5: lognormal takes 2 or 4"),
        ({"prompt_tokens": {"file": "none.jsonl"}}, "none.jsonl is no file: give lines like 128"),
        ({"trace": "x.jsonl"}, "the trace has the lengths: leave prompt_tokens"),
        ({"growth": -0.1}, "growth -0.1"),
        ({"burstiness": 0}, "burstiness 0"),
        ({"prefix_share": 1}, "prefix_share 1"),
        ({"rates": 3}, "rates is no setting; known: schema, rate_rps"),
        ({"schema": 3}, "schema 3"),
    ],
)
def test_a_file_that_is_wrong_is_told_in_a_line(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = write_traffic(tmp_path / "t.yaml", **changes)
    with pytest.raises(UsageError, match=f"--traffic .*{told}"):
        read_traffic(path)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("", "has zero rows"),
        ('{"at_s": 1, "prompt_tokens": 0, "output_tokens": 3}', "prompt_tokens is 0"),
        ('{"at_s": 1, "prompt": "hello", "output_tokens": 3}', "all rows .* come at one moment"),
        (
            '{"at_s": 1, "prompt": "hello", "output_tokens": 3}\n'
            '{"at_s": 2, "prompt": "hello", "output_tokens": 3}',
            "prompts without their length",
        ),
    ],
)
def test_a_trace_that_is_wrong_is_told_in_a_line(tmp_path: Path, rows: str, told: str) -> None:
    (tmp_path / "trace.jsonl").write_text(rows)
    path = write_traffic(
        tmp_path / "t.yaml",
        rate_rps=None,
        trace="trace.jsonl",
        prompt_tokens=None,
        output_tokens=None,
    )
    with pytest.raises(UsageError, match=f"--traffic .*{told}"):
        read_traffic(path)


@pytest.mark.parametrize(
    ("row", "told"),
    [("seven", "can't be read"), ('{"tokens": 7}', "line 1: give a length"), ("0", "lengths are")],
)
def test_lengths_that_are_wrong_are_told(tmp_path: Path, row: str, told: str) -> None:
    (tmp_path / "seen.jsonl").write_text(row + "\n")
    path = write_traffic(tmp_path / "t.yaml", prompt_tokens={"file": "seen.jsonl"})
    with pytest.raises(UsageError, match=told):
        read_traffic(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--traffic .* is no file: give one with rate_rps"):
        read_traffic(tmp_path / "none.yaml")


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no UTF-8 text"):
        read_traffic(path)
    path.write_text("# " + "x" * 2**20)
    with pytest.raises(UsageError, match="bytes: give 1,048,576 at most"):
        read_traffic(path)
