"""Pushing to the hub: what arrives, what does not, and that the token is in headers alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from huggingface_hub import logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from slimgpt.checkpoint.writer import file_digests, write_json
from slimgpt.commands.console import Console
from slimgpt.errors import EnvironmentProblem, IntegrityError, UsageError
from slimgpt.release.push import push
from tests.hub_server import HANG_UP, NONSENSE
from tests.hub_state import Hub
from tests.pushing import (  # noqa: F401 - fixtures, asked for by name
    NAME,
    TOKEN,
    WEIGHTS,
    contents,
    empty_hub,
    finished_release,
    held,
    refused,
    remanifest,
)

# -- what arrives -------------------------------------------------------------------------------


def test_the_files_of_the_release_arrive_as_they_are_and_nothing_else(
    hub: Hub, release: Path
) -> None:
    url = push(release, NAME, private=True)
    assert held(hub) == contents(release)
    repository = hub.repositories[NAME]
    assert repository.private
    assert url == f"{hub.url}/{NAME}/commit/{repository.sha}"
    assert len(repository.headers) == 1
    assert repository.headers[0]["summary"].startswith("Checkpoint made with SlimGPT")


def test_a_public_repository_is_made_where_it_is_asked_for(hub: Hub, release: Path) -> None:
    push(release, NAME, private=False)
    assert not hub.repositories[NAME].private


def test_a_second_push_sends_nothing_and_commits_nothing(hub: Hub, release: Path) -> None:
    first = push(release, NAME, private=True)
    commits, uploads = len(hub.repositories[NAME].commits), len(hub.uploaded())
    assert push(release, NAME, private=True) == first
    assert len(hub.repositories[NAME].commits) == commits
    assert len(hub.uploaded()) == uploads == 1


def test_only_what_has_changed_is_sent_again(hub: Hub, release: Path) -> None:
    push(release, NAME, private=True)
    (release / "config.json").write_text('{"model_type": "mistral"}')
    remanifest(release, **{"config.json": file_digests(release)["config.json"]})
    hub.asked.clear()
    push(release, NAME, private=True)
    assert held(hub) == contents(release)
    assert not hub.uploaded()
    commit = next(x for x in hub.asked if "/commit/" in x.path).body.splitlines()
    assert sorted(json.loads(x)["value"].get("path", "") for x in commit) == [
        "",
        "config.json",
        "slimgpt.json",
    ]


def test_weights_of_an_earlier_release_go_and_other_files_stay(hub: Hub, release: Path) -> None:
    stale = {
        "model-00001-of-00002.safetensors": b"old",
        "model.safetensors.index.json": b"{}",
        "photo.png": b"theirs",
        "other.safetensors": b"theirs",
    }
    hub.add(NAME, stale)
    push(release, NAME, private=True)
    theirs = {"photo.png": b"theirs", "other.safetensors": b"theirs"}
    assert held(hub) == contents(release) | theirs


def test_a_repository_may_exist_where_the_token_can_make_none(hub: Hub, release: Path) -> None:
    hub.add(NAME)
    hub.may_create = False
    push(release, NAME, private=True)
    assert held(hub) == contents(release)


def test_the_other_variable_is_read_too_and_the_first_counts(
    hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", f" {TOKEN}\n")
    push(release, NAME, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(release, EnvironmentProblem, "answers 401", "HF_TOKEN")


# -- what is not pushed -------------------------------------------------------------------------


def test_a_public_repository_takes_no_private_model(hub: Hub, release: Path) -> None:
    hub.add(NAME, private=False)
    refused(release, UsageError, "push.private is true", NAME, "exists and is public")
    assert len(hub.repositories[NAME].commits) == 1
    assert not hub.uploaded()


def test_a_file_that_changed_after_the_release_stays_here(hub: Hub, release: Path) -> None:
    (release / WEIGHTS).write_bytes(b"something else")
    refused(release, IntegrityError, WEIGHTS, "SHA-256 differs", "not pushed")
    assert not hub.asked


def test_a_missing_file_stops_the_push(hub: Hub, release: Path) -> None:
    (release / WEIGHTS).unlink()
    refused(release, IntegrityError, WEIGHTS, "is no file")
    assert not hub.asked


@pytest.mark.parametrize(
    "name", ["../secret", ".env", "assets/.env", "/etc/hostname", "./x", "a//b"]
)
def test_a_manifest_publishes_nothing_hidden_or_outside(hub: Hub, release: Path, name: str) -> None:
    (release.parent / "secret").write_text("of someone else")
    remanifest(release, **{name: "0" * 64})
    refused(release, IntegrityError, f"names {name!r}", "not pushed")
    assert not hub.asked


def test_a_link_out_of_the_checkpoint_is_not_followed(hub: Hub, release: Path) -> None:
    (release.parent / "secret").write_text("of someone else")
    (release / "model.sig").unlink()
    (release / "model.sig").symlink_to(release.parent / "secret")
    refused(release, IntegrityError, "model.sig", "outside the checkpoint")
    assert not hub.asked


def test_a_folder_without_a_manifest_is_no_release(hub: Hub, release: Path) -> None:
    (release / "slimgpt.json").unlink()
    refused(release, UsageError, "has no slimgpt.json", "only a finished checkpoint")
    write_json(release / "slimgpt.json", {"files": {}})
    refused(release, IntegrityError, "names no files")
    assert not hub.asked


# -- the token is a secret -----------------------------------------------------------------------


def test_the_token_is_a_header_and_in_no_message_log_or_file(
    hub: Hub, release: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    hub.words = f"{{authorization}} and {quote(TOKEN, safe='')} are bad"  # a hub that tells tales
    with closing(Console(as_json=False, quiet=False, log_file=log)) as console:
        for fault in (401, 403, 500, HANG_UP, NONSENSE):
            hub.faults = {"/commit/": fault}
            with pytest.raises(EnvironmentProblem) as caught:
                push(release, NAME, private=True, progress=console)
            console.message("".join(traceback.format_exception(caught.value)))
        hub.faults = {}
        console.message(push(release, NAME, private=True, progress=console))
    told = "".join(capfd.readouterr()) + log.read_text()
    assert "Bearer <HF_TOKEN> and <HF_TOKEN> are bad" in " ".join(told.split())
    assert f"{NAME} has the 6 files of release" in log.read_text()
    assert TOKEN not in told
    assert quote(TOKEN, safe="") not in told
    asked = [x for x in hub.asked if not x.path.startswith("/bucket/")]
    assert {x.authorization for x in asked} == {f"Bearer {TOKEN}"}
    assert {x.authorization for x in hub.uploaded()} == {None}
    assert not any(TOKEN.encode() in x.body for x in hub.asked)


def test_the_clients_own_bars_and_log_lines_stay_out_and_come_back(
    hub: Hub, release: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (release / "README.md").write_text("no front matter")
    remanifest(release, **{"README.md": file_digests(release)["README.md"]})
    before = (logging.get_verbosity(), are_progress_bars_disabled())
    hub.faults = {"/preupload/": 503}
    refused(release, EnvironmentProblem, "answers 503")
    console = Console(as_json=False, quiet=False, log_file=None)
    hub.faults = {}
    push(release, NAME, private=True, progress=console)
    assert (logging.get_verbosity(), are_progress_bars_disabled()) == before
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Warnings while validating metadata in README.md: - empty metadata\n")
    assert "HTTP Error" not in err


PUSHING = """
import sys
from pathlib import Path
from slimgpt.commands.console import Console
from slimgpt.errors import SlimGPTError
from slimgpt.release.push import push
console = Console(as_json=True, quiet=False, log_file=Path("log.jsonl"))
try:
    console.result({"url": push(Path("release"), sys.argv[1], private=True, progress=console)}, "")
except SlimGPTError as problem:
    sys.exit(f"slimgpt: {problem}")
"""


def test_chunks_of_hf_xet_arrive_too_and_its_errors_are_one_line(
    hub: Hub, release: Path, tmp_path: Path
) -> None:
    """In a process of its own, as hf_xet reads its settings once; and with the login file there."""
    pytest.importorskip("hf_xet")
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("hf_of_the_login_file")
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_XET_XORB_COMPRESSION_POLICY": "none",
        "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PUSHING, NAME],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    said = []
    for part, fault in (("xet-write-token", 403), ("/v1/xorbs/", HANG_UP)):
        hub.faults = {part: fault}
        failed = run()
        assert failed.returncode == 1
        assert failed.stdout == ""
        assert failed.stderr.startswith(f"slimgpt: push to {NAME}: 127.0.0.1:")
        assert len(failed.stderr.splitlines()) == 1
        said.append(failed.stderr)
    assert "answers 403" in said[0]
    assert "can't be reached or hung up" in said[1]
    hub.faults = {}
    done = run()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["url"].startswith(f"{hub.url}/{NAME}/commit/")
    assert held(hub) == contents(release)
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    everything = b"".join(written) + "".join([*said, done.stdout, done.stderr]).encode()
    assert TOKEN.encode() not in everything
    assert not any(b"login_file" in (x.authorization or "").encode() for x in hub.asked)
