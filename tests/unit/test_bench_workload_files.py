"""Traces and datasets: what is read from files of other people."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from slimgpt.errors import UsageError
from slimgpt_bench.workload.datasets import read_dataset
from slimgpt_bench.workload.trace import read_trace

# -- traces -------------------------------------------------------------------------------------


def _written(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_trace_is_sorted_and_begins_at_zero(tmp_path):
    rows = [
        {"at_s": 7.5, "prompt_tokens": 10, "output_tokens": 2},
        {"at_s": 5, "prompt": "Once", "output_tokens": 3},
    ]
    trace = read_trace(_written(tmp_path / "trace.jsonl", *rows))
    assert [(x.at_s, x.prompt, x.prompt_tokens) for x in trace.rows] == [
        (0.0, "Once", None),
        (2.5, None, 10),
    ]
    assert (trace.duration_s, trace.rate_rps) == (2.5, 0.4)
    assert trace.output_lengths().mean == 2.5
    lengths = trace.prompt_lengths()
    assert lengths
    assert lengths.mean == 10


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "has zero rows"),
        ("{", "line 1 is no JSON"),
        ("[]", "line 1 is no object"),
        ('{"prompt_tokens": 1, "output_tokens": 1}', "at_s is None"),
        ('{"at_s": -1, "prompt_tokens": 1, "output_tokens": 1}', "at_s is -1"),
        ('{"at_s": 0, "prompt_tokens": 0, "output_tokens": 1}', "prompt_tokens is 0"),
        ('{"at_s": 0, "prompt_tokens": 1}', "output_tokens is None"),
        ('{"at_s": 0, "prompt": 3, "output_tokens": 1}', "prompt is 3"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_its_line(tmp_path, line, why):
    path = tmp_path / "trace.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UsageError) as found:
        read_trace(path)
    assert why in str(found.value)
    assert str(found.value).startswith(f"--trace {path}")


def test_a_trace_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no file"):
        read_trace(tmp_path / "trace.jsonl")


# -- datasets -----------------------------------------------------------------------------------

SHAREGPT = [
    {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
    {"conversations": [{"from": "gpt", "value": "It begins with an answer."}]},
    {"conversations": []},
]
MESSAGES = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So."},
        ]
    }
]
ALPACA = [{"instruction": "Add.", "input": "1, 2", "output": "3"}]


@pytest.mark.parametrize(
    ("name", "rows", "texts", "skipped"),
    [
        ("x.json", SHAREGPT, [("Why?", "So.")], 2),
        ("x.json", MESSAGES, [("Why?", "So.")], 0),
        ("x.json", ALPACA, [("Add.\n1, 2", "3")], 0),
        ("x.jsonl", [{"prompt": "Hi", "completion": "Ho"}], [("Hi", "Ho")], 0),
    ],
)
def test_prompts_are_read_from_what_people_have(tmp_path, name, rows, texts, skipped):
    path = tmp_path / name
    lines = name.endswith("l")
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    found = read_dataset(path)
    assert [(x.text, x.answer) for x in found.samples] == texts
    assert found.skipped == skipped


def test_text_is_there_to_be_cut(tmp_path):
    path = tmp_path / "book.txt.gz"
    with gzip.open(path, "wt") as file:
        file.write("Once upon a time")
    assert read_dataset(path).texts == ("Once upon a time",)


def test_the_reference_instructions_are_a_dataset(shared):
    paths = [p for p in (shared / "data" / "instruct").rglob("*.json*") if p.is_file()]
    assert paths
    found = read_dataset(paths[0])
    assert found.samples or found.texts


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("x.json", "{}", "holds no list"),
        ("x.json", "[", "is no JSON"),
        ("x.json", "[3]", "row 1 is no object"),
        ("x.jsonl", '{"question": "Why?"}', "line 1 has no prompt"),
        ("x.jsonl", '{"prompt": "Why?", "output_tokens": 0}', "output_tokens is 0"),
        ("x.jsonl", '{"prompt": " "}', "has no prompts"),
        ("x.jsonl", '{"prompt": "Why?"}\n{"text": "Once"}', "mixes prompts"),
        ("x.txt", "", "has no prompts"),
        ("x.txt", "a\0b", "holds zero bytes"),
    ],
)
def test_a_dataset_that_is_none_is_refused(tmp_path, name, text, why):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UsageError) as found:
        read_dataset(path)
    assert why in str(found.value)
    assert str(found.value).startswith(f"--dataset {path}")


def test_a_dataset_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no file"):
        read_dataset(tmp_path / "x.json")
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="can't be read"):
        read_dataset(path)
