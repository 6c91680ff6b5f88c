"""What tests of a push share: a hub that this process talks to, and a folder to push.

The server is one of our own (tests/hub_server.py), the client is the real one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from slimgpt.checkpoint.writer import file_digests, write_json
from slimgpt.errors import SlimGPTError
from slimgpt.release.push import push
from tests.hub_server import running_hub
from tests.hub_state import Hub

TOKEN = "hf_TheSecretOf+This/Test"
NAME = "org/small-model"
WEIGHTS = "model.safetensors"


@pytest.fixture(name="hub")
def empty_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub that the client in this process talks to, without its pauses between tries."""
    with running_hub(TOKEN) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(name="release")
def finished_release(tmp_path: Path) -> Path:
    """A folder like a finished checkpoint, with things in it that are no part of it."""
    folder = tmp_path / "release"
    (folder / "assets").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "README.md").write_text("---\ntags:\n- pruned\n---\n# A model\n")
    (folder / "assets" / "widths.svg").write_text("<svg/>")
    (folder / WEIGHTS).write_bytes(os.urandom(300_000))
    write_json(folder / "slimgpt.json", {"files": file_digests(folder)})
    (folder / "model.sig").write_text("{}")
    (folder / ".env").write_text("PASSWORD=1")
    (folder / "notes.txt").write_text("written later")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """What a push of the folder must bring."""
    names = [*json.loads((folder / "slimgpt.json").read_text())["files"], "slimgpt.json"]
    return {name: (folder / name).read_bytes() for name in [*names, "model.sig"]}


def remanifest(folder: Path, **changes: str) -> None:
    """Enters digests as if they had been there at the release."""
    files = json.loads((folder / "slimgpt.json").read_text())["files"]
    write_json(folder / "slimgpt.json", {"files": files | changes})


def held(hub: Hub) -> dict[str, bytes]:
    """What the repository holds now, without what the hub itself puts there."""
    return {k: v for k, v in hub.repositories[NAME].files.items() if k != ".gitattributes"}


def refused(folder: Path, kind: type[SlimGPTError], *says: str, private: bool = True) -> str:
    """The push ends in one line that says this."""
    with pytest.raises(kind) as caught:
        push(folder, NAME, private=private)
    line = str(caught.value)
    assert "\n" not in line
    assert TOKEN not in line
    for words in says:
        assert words in line
    return line
