"""Cutting text into windows to score, by either protocol."""

import json
from pathlib import Path

import pytest

from slimgpt.checkpoint.reader import read_config
from slimgpt.demo import MODEL
from slimgpt.evaluate.windows import EvaluationText, Protocol, load_text
from slimgpt.tokenizer import encode, load_tokenizer

LINES = [" = Title = ", "", "One sentence .", "", "Another sentence , longer ."] * 9
META = read_config(MODEL)


def load(path: Path, window: int = 16, protocol: Protocol = "raw") -> EvaluationText:
    return load_text(META, path, window, protocol)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "x.txt"
    path.write_text("\n".join(LINES))
    return path


def cut(ids: list[int], window: int) -> list[list[int]]:
    return [ids[i : i + window] for i in range(0, len(ids) - window + 1, window)]


def test_raw_scores_the_file_as_it_is(text: Path) -> None:
    ids = encode(load_tokenizer(MODEL), "\n".join(LINES))
    loaded = load(text)
    assert loaded.windows.tolist() == cut(ids, 16)
    assert loaded.protocol == "text as it is, disjoint windows of 16"


def test_paper_joins_lines_by_blank_lines_behind_one_bos(text: Path) -> None:
    tokenizer = load_tokenizer(MODEL)
    rows = [f"{line}\n" if line else "" for line in LINES]  # as the hub's WikiText has them
    ids = [*tokenizer("")["input_ids"][:1], *encode(tokenizer, "\n\n".join(rows))]
    loaded = load(text, protocol="paper")
    assert loaded.windows.tolist() == cut(ids, 16)
    assert loaded.protocol.startswith("lines joined by blank lines, one BOS in front")


@pytest.mark.parametrize("protocol", ["raw", "paper"])
@pytest.mark.parametrize("window", [2, 7, 64])
def test_what_is_left_over_is_dropped(text: Path, window: int, protocol: Protocol) -> None:
    whole = load(text, 2, protocol).windows.flatten().tolist()
    windows = load(text, window, protocol).windows
    ids = windows.flatten().tolist()
    assert ids[: len(whole)] == whole[: len(ids)]
    assert -1 <= len(whole) - len(ids) < window


def test_a_windows_first_token_is_not_scored(text: Path) -> None:
    loaded = load(text, 8)
    assert loaded.scored_tokens == loaded.windows.numel() - len(loaded.windows)


def test_rows_of_ids_are_cut_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [list(range(10)), list(range(20, 23)), list(range(30, 44))]
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
    loaded = load(path, 5)
    assert loaded.windows.tolist() == [piece for row in rows for piece in cut(row, 5)]
    assert loaded.protocol == "rows of token ids, disjoint windows of 5"


def test_documents_are_joined_by_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in ("One.", "Two.") * 9))
    ids = encode(load_tokenizer(MODEL), "\n\n".join(("One.", "Two.") * 9))
    assert load(path, 8).windows.tolist() == cut(ids, 8)
