"""No file outside a checkpoint is opened, whatever its index and links say."""

import json
from pathlib import Path

import pytest

from slimgpt.checkpoint.safety import inside, read_json, shard_path
from slimgpt.errors import IntegrityError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for path in ("a.safetensors", "sub/b.safetensors", "../outside.safetensors"):
        (folder / path).touch()
    return folder


@pytest.mark.parametrize("name", ["a.safetensors", "sub/b.safetensors", "./a.safetensors"])
def test_shards_below_the_directory_are_found(model: Path, name: str) -> None:
    assert shard_path(model, name) == model / name


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "sub/../../outside.safetensors",
        "/etc/a.safetensors",
        "//host/a.safetensors",
        r"..\outside.safetensors",
        r"C:\a.safetensors",
        "c:a.safetensors",
        r"\\host\share\a.safetensors",
        r"\a.safetensors",
        "a.bin",
        "a.safetensors/",
        "",
        "no.safetensors",
        "nul\0.safetensors",
        "x" * 5000 + ".safetensors",
        "sub.safetensors",
        None,
        5,
        ["a.safetensors"],
    ],
)
def test_other_names_are_refused(model: Path, name: object) -> None:
    (model / "sub.safetensors").mkdir()
    with pytest.raises(IntegrityError):
        shard_path(model, name)


def test_links_within_the_directory_are_followed(model: Path) -> None:
    (model / "link").symlink_to("sub/b.safetensors")
    assert inside(model, model / "link") == model / "link"


def test_a_directory_may_be_a_link_itself(model: Path) -> None:
    alias = model.with_name("alias")
    alias.symlink_to(model)
    assert inside(alias, alias / "a.safetensors") == alias / "a.safetensors"


@pytest.mark.parametrize("target", ["../outside.safetensors", "nothing", "link", "sub", "/etc"])
def test_other_links_are_refused(model: Path, target: str) -> None:
    (model / "link").symlink_to(target)
    with pytest.raises(IntegrityError, match=r"^link in "):
        inside(model, model / "link")


def test_a_folder_called_blobs_is_not_enough(model: Path) -> None:
    blobs = model.parent / "blobs"
    blobs.mkdir()
    (blobs / "1").touch()
    (model / "link").symlink_to(blobs / "1")
    with pytest.raises(IntegrityError, match="outside the checkpoint"):
        inside(model, model / "link")


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"a": [1, {"b": "ä"}]}
    (tmp_path / "x.json").write_text(json.dumps(value), "utf-8")
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"\xff", b"[" * 100_000, b'{"a": 1,}'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"x\.json (is not valid JSON|holds a JSON)"):
        read_json(tmp_path / "x.json")


def test_a_missing_or_endless_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="can't be read: No such file"):
        read_json(tmp_path / "no.json")
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(IntegrityError, match="is larger than"):
        read_json(tmp_path / "x.json")
