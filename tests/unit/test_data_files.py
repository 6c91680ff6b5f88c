"""Files are found by what is in them, wherever they lie and whatever they are called."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from slimgpt.errors import UsageError
from slimgpt.release.verify import data_files
from slimgpt.release.verify.data_files import find_files

TEXT = b"It was a bright cold day in April."
DIGEST = hashlib.sha256(TEXT).hexdigest()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "deep" / "deeper"
    folder.mkdir(parents=True)
    (folder / "renamed.txt").write_bytes(TEXT)
    (tmp_path / "data" / "test.txt").write_bytes(b"another text of the same name")
    os.mkfifo(tmp_path / "data" / "pipe.txt")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    return tmp_path / "data"


def test_a_folder_is_searched_to_the_bottom(data: Path) -> None:
    found = data / "deep" / "deeper" / "renamed.txt"
    assert find_files({DIGEST: "test.txt"}, [data]) == {DIGEST: found}
    assert find_files({DIGEST: "x/test.txt"}, [found]) == {DIGEST: found}


def test_what_is_not_there_is_left_out(data: Path) -> None:
    assert find_files({"0" * 64: "test.txt"}, [data]) == {}
    assert find_files({DIGEST: "test.txt"}, []) == {}
    assert find_files({}, [data]) == {}


def test_the_suffix_must_agree_as_it_decides_how_a_file_is_read(data: Path) -> None:
    assert find_files({DIGEST: "test.jsonl"}, [data]) == {}
    (data / "x.txt.gz").write_bytes(TEXT)
    assert find_files({DIGEST: "test.txt.gz"}, [data]) == {DIGEST: data / "x.txt.gz"}


def test_names_are_looked_for_below_the_working_directory(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    name = "deep/deeper/renamed.txt"
    assert find_files({DIGEST: name}, []) == {DIGEST: Path(name)}


@pytest.mark.parametrize("name", ["../text.txt", "{root}/text.txt", "x" * 5000 + ".txt", "\0.txt"])
def test_names_that_lead_elsewhere_are_not_followed(
    data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (data.parent / "text.txt").write_bytes(TEXT)
    monkeypatch.chdir(data)
    assert find_files({DIGEST: name.format(root=data.parent)}, []) == {}


def test_a_place_that_does_not_exist_is_an_error(data: Path) -> None:
    with pytest.raises(UsageError, match=r"--data .*nothing does not exist: give a file, or a"):
        find_files({DIGEST: "test.txt"}, [data / "nothing"])


def test_a_search_is_bounded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "_MOST_FILES", 1)
    with pytest.raises(UsageError, match="holds more than 1 files: give the folder of the texts"):
        find_files({DIGEST: "test.txt"}, [data])
