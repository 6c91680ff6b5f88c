"""Reading text: every form of it gives the same documents."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgpt.errors import UsageError
from slimgpt.text import Document, Exchange, document, read_documents

OPTION = "--calibration"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def read(path: Path, content: str) -> list[Document]:
    path.write_bytes(content.encode())
    return read_documents(path, OPTION)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@settings(max_examples=50)
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_rows_come_back_as_they_were_written(folder: Path, texts: list[str]) -> None:
    texts.append("not blank")
    rows = [{"text": x} for x in texts]
    expected = [Document(x) for x in texts]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert read(folder / "x.jsonl", lines) == expected
    assert read(folder / "x.json", json.dumps(rows)) == expected


@settings(max_examples=50)
@given(text=TEXT)
def test_a_plain_file_is_one_document_with_its_own_line_ends(folder: Path, text: str) -> None:
    text = "not blank\r\n" + text
    assert read(folder / "x.txt", text) == [Document(text)]
    (folder / "x.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert read_documents(folder / "x.txt.gz", OPTION) == [Document(text)]


def test_the_mark_that_some_editors_put_in_front_is_no_text(folder: Path) -> None:
    assert read(folder / "x.txt", "\ufeffabc") == [Document("abc")]
    assert read(folder / "x.jsonl", '\ufeff{"text": "abc"}') == [Document("abc")]


def test_blank_lines_between_rows_are_skipped(folder: Path) -> None:
    assert read(folder / "x.jsonl", '\n{"text": "a"}\n \n{"text": "b"}') == [
        Document("a"),
        Document("b"),
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a", "other": 1}, Document("a")),
        ({"input_ids": [1, 2], "text": "a"}, Document("", (1, 2))),
        ({"input_ids": []}, Document("", ())),
        (
            {"instruction": "a", "input": "b", "output": "c"},
            Document("a\nb\nc", exchange=Exchange("a", "b", "c")),
        ),
        (
            {"instruction": "a", "input": "", "output": "c"},
            Document("a\nc", exchange=Exchange("a", "", "c")),
        ),
        ({"instruction": "a"}, Document("a", exchange=Exchange("a", "", ""))),
    ],
)
def test_rows_of_every_kind(row: dict[str, object], expected: Document) -> None:
    assert document(row, "here") == expected


@pytest.mark.parametrize("row", [None, 5, "text", [], {}, {"text": 5}, {"input_ids": [True]}])
def test_rows_of_no_kind(row: object) -> None:
    with pytest.raises(UsageError, match=r"^here has no text: a row needs text, input_ids"):
        document(row, "here")
