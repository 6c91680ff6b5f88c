"""A hub that refuses, fails or hangs up, and what can be told before it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from slimgpt.errors import EnvironmentProblem, IntegrityError, UsageError
from slimgpt.release import hub_client
from slimgpt.release.push import push, require_pushable
from tests.hub_server import HANG_UP, NONSENSE, STAY_SILENT
from tests.hub_state import Hub
from tests.pushing import NAME, WEIGHTS, contents, empty_hub, finished_release, held, refused  # noqa: F401 - fixtures, asked for by name

# -- before a pipeline starts --------------------------------------------------------------------


@pytest.mark.parametrize(
    "repository",
    ["", "name", "org/", "/name", "a/b/c", "org/na me", "org/-x", "org/a--b", "org/a..b", "o/x.git",
     "https://huggingface.co/org/name", "org/" + "x" * 97, "org/naïve"],
)  # fmt: skip
def test_an_id_that_the_hub_can_not_have_is_refused(hub: Hub, repository: str) -> None:
    with pytest.raises(UsageError, match="is no id of the hub: give ORGANISATION/NAME"):
        require_pushable(repository)


def test_a_push_that_may_work_is_let_through_without_the_network(hub: Hub) -> None:
    for repository in ("org/name", "Org_1/a.b-c_d", "o/" + "x" * 96):
        require_pushable(repository)
    assert not hub.asked


def test_a_missing_token_is_said_at_once(
    hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(EnvironmentProblem, match="environment variable HF_TOKEN, which is not set"):
        require_pushable(NAME)
    refused(release, EnvironmentProblem, f"push to {NAME} needs a token", "HF_TOKEN")
    assert not hub.asked


@pytest.mark.parametrize("value", ["two words", "two\nlines", "schlüssel"])
def test_what_can_be_no_token_is_not_sent(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", value)
    with pytest.raises(EnvironmentProblem, match="HF_TOKEN holds something that is no token") as it:
        require_pushable(NAME)
    assert value not in str(it.value)


def test_offline_mode_forbids_a_push(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentProblem, match="HF_HUB_OFFLINE forbids: unset it"):
        require_pushable(NAME)


# -- a hub that fails ---------------------------------------------------------------------------

STEPS = {
    "create": "/api/repos/create",
    "preupload": "/preupload/",
    "batch": "/objects/batch",
    "upload": "/bucket/",
    "card": "/validate-yaml",
    "commit": "/commit/",
}
ANSWERS = {
    401: ("answers 401", "HF_TOKEN is not accepted"),
    403: ("answers 403", "may not write there"),
    404: ("answers 404", "no such repository or organisation"),
    413: ("answers 413", "the request is refused"),
    429: ("answers 429", "too many requests"),
    500: ("answers 500", "fault of its own", "run the command again"),
    503: ("answers 503", "fault of its own"),
    HANG_UP: ("can't be reached or hung up", "run the command again"),
    NONSENSE: ("could not be talked to",),
}
# What a store says is not read; then the commit finds no content, which is no fault of an answer.
FAULTS = [(x, y) for x in STEPS for y in ANSWERS if (x, y) != ("upload", NONSENSE)]


@pytest.mark.parametrize(("step", "fault"), FAULTS)
def test_every_fault_of_every_step_is_one_line_and_the_next_push_succeeds(
    hub: Hub, release: Path, step: str, fault: int | str
) -> None:
    hub.faults = {STEPS[step]: fault}
    refused(release, EnvironmentProblem, f"push to {NAME}: 127.0.0.1:", *ANSWERS[fault])
    assert NAME not in hub.repositories or not held(hub)  # nothing half-done is to be seen
    hub.faults = {}
    push(release, NAME, private=True)
    assert held(hub) == contents(release)


def test_two_pushes_at_once_do_not_mix(hub: Hub, release: Path) -> None:
    hub.faults = {"/commit/": 412}
    refused(release, EnvironmentProblem, "answers 412", "changed the repository meanwhile")
    hub.faults = {"/commit/": 409}
    refused(release, EnvironmentProblem, "answers 409", "something else is changing")


def test_a_card_that_the_hub_refuses_is_said(hub: Hub, release: Path) -> None:
    hub.faults, hub.words = {"/validate-yaml": 400}, "licence unknown"
    refused(release, EnvironmentProblem, "answers 400", "refused (it says: licence unknown)")


def test_an_unknown_organisation_is_said(hub: Hub, release: Path) -> None:
    hub.namespaces = set()
    refused(release, EnvironmentProblem, "answers 404", "this organisation does not exist")


def test_a_hub_that_stays_silent_is_left(
    hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "_LONGEST_SILENCE_S", 0.2)
    hub.faults = {"/commit/": STAY_SILENT}
    refused(release, EnvironmentProblem, "can't be reached or hung up", "Timeout")


def test_no_network_at_all(hub: Hub, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://user:password@127.0.0.1:9")
    line = refused(release, EnvironmentProblem, "127.0.0.1:9 can't be reached", "ConnectError")
    assert "password" not in line


def test_files_that_the_hub_leaves_out_are_missed(hub: Hub, release: Path) -> None:
    hub.ignored = {WEIGHTS}
    refused(release, IntegrityError, f"left out {WEIGHTS}", ".gitignore")
