"""The last stages of a job: signature and push."""

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from slimgpt.checkpoint.reader import SIGNATURE
from slimgpt.demo import EVALUATION
from slimgpt.release.manifest import read_manifest
from tests.command_line import ENVIRONMENT, INTEGRITY, USAGE, Desk
from tests.hub_state import Hub
from tests.integration.test_compress import GATE, compress, report, write_recipe
from tests.pushing import NAME, TOKEN, empty_hub, held  # noqa: F401 - a fixture, asked for by name
from tests.signing_keys import write_keys


@pytest.fixture
def quick(desk: Desk) -> Desk:
    """A desk with a recipe that only prunes."""
    write_recipe(desk, recover=None, evaluate=None, gates={"weight_bytes": 1.0})
    return desk


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }


def test_a_signed_release_can_be_verified_with_the_public_key_alone(quick: Desk) -> None:
    write_keys(quick.root, "own", ec.generate_private_key(ec.SECP256R1()))
    assert quick.run(compress(quick, "--set", f"sign.key={quick.root}/own")).code == 0
    assert (quick.out / SIGNATURE).exists()
    verify = ["verify", str(quick.out), "--public-key", str(quick.root / "own.pub")]
    assert quick.run(verify).code == 0
    (quick.out / "config.json").write_text((quick.out / "config.json").read_text() + " ")
    assert quick.run(verify).code == 5


def test_a_key_that_is_none_is_found_before_anything_is_pruned(quick: Desk) -> None:
    (quick.root / "key.pem").write_text("no key")
    quick.refuses(compress(quick, "--set", f"sign.key={quick.root}/key.pem"), USAGE, "key.pem")


def test_a_release_is_pushed_as_it_lies_in_out(quick: Desk, hub: Hub) -> None:
    ended = quick.run(compress(quick, "--set", f"push.repository={NAME}"))
    assert ended.code == 0, ended
    assert held(hub) == files(quick.out)
    assert report(quick)["pushed"]
    assert TOKEN not in ended.stdout + ended.stderr
    assert not quick.out.with_name("out.partial").exists()


def test_a_push_that_failed_is_made_up_for_by_the_same_command(quick: Desk, hub: Hub) -> None:
    command = compress(quick, "--set", f"push.repository={NAME}")
    hub.faults["commit"] = 500
    ended = quick.run(command)
    assert ended.code == ENVIRONMENT, ended
    assert quick.out.exists()
    released = files(quick.out)
    hub.faults.clear()
    assert quick.run(command).code == 0
    assert files(quick.out) == released == held(hub)
    assert not quick.out.with_name("out.partial").exists()


def test_nothing_is_pushed_that_missed_a_gate(quick: Desk, hub: Hub) -> None:
    options = ["--set", f"push.repository={NAME}", "--set", "gates.weight_bytes=0.1"]
    assert quick.run(compress(quick, *options)).code == GATE
    assert not hub.asked


def test_a_missing_token_is_found_before_anything_is_pruned(
    quick: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    quick.refuses(compress(quick, "--set", f"push.repository={NAME}"), ENVIRONMENT, "HF_TOKEN")


@pytest.fixture
def unpushed(quick: Desk, hub: Hub) -> Desk:
    """A desk with a release that the hub refused, after which the hub is well again."""
    hub.faults["commit"] = 500
    assert quick.run(push(quick)).code == ENVIRONMENT
    hub.faults.clear()
    return quick


def push(desk: Desk, *options: str) -> list[str]:
    return compress(desk, "--quiet", "--set", f"push.repository={NAME}", *options)


def test_a_failed_push_loses_no_report(unpushed: Desk) -> None:
    assert report(unpushed)["released"]
    assert report(unpushed)["pushed"] is None
    assert (unpushed.root / "out.report" / "junit.xml").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["gates.weight_bytes=0.1"], "another gates"),
        (["gates.weight_bytes=0.99", "exports=[]"], "another gates, exports"),
        ([f"evaluate.texts=[{{file: {EVALUATION}}}]"], "another evaluate, evaluation data"),
    ],
)
def test_a_release_is_not_pushed_as_what_another_recipe_would_have_made(
    unpushed: Desk, hub: Hub, settings: list[str], named: str
) -> None:
    options = [word for setting in settings for word in ("--set", setting)]
    unpushed.refuses(push(unpushed, *options), USAGE, "was published", named, "remove")
    assert NAME not in hub.repositories or not held(hub)
    assert unpushed.run(push(unpushed)).code == 0
    assert files(unpushed.out) == held(hub)


def test_a_release_that_was_removed_is_made_anew_as_the_recipe_is_now(
    unpushed: Desk, hub: Hub
) -> None:
    shutil.rmtree(unpushed.out)
    assert unpushed.run(push(unpushed, "--set", "gates.weight_bytes=0.99")).code == 0
    manifest = read_manifest(unpushed.out)
    assert manifest
    assert manifest["gates"][0]["limit"] == 0.99
    assert files(unpushed.out) == held(hub)


def test_a_release_that_was_changed_since_is_not_pushed(unpushed: Desk, hub: Hub) -> None:
    manifest = unpushed.out / "slimgpt.json"
    manifest.write_text(manifest.read_text().replace('"passed": true', '"passed": false'))
    unpushed.refuses(push(unpushed), INTEGRITY, "was changed since it was published")
    assert NAME not in hub.repositories or not held(hub)


def test_fresh_throws_nothing_away_where_a_release_is_published(unpushed: Desk) -> None:
    unpushed.refuses(push(unpushed, "--fresh"), USAGE, "out exists")
    assert unpushed.run(push(unpushed)).code == 0


def test_a_job_that_was_killed_while_it_cleaned_up_is_ended(unpushed: Desk) -> None:
    released, work = files(unpushed.out), unpushed.out.with_name("out.partial")
    shutil.rmtree(work / "pruned")
    ended = unpushed.run(push(unpushed, "--json"))
    assert ended.code == 0, ended
    document = json.loads(ended.stdout)
    assert document["gates"][0]["passed"]
    assert [s["stage"] for s in document["stages"]] == ["source", "prune", "release", "push"]
    assert [s["reused"] for s in document["stages"]] == [False, True, True, False]
    assert files(unpushed.out) == released
    assert not work.exists()


def test_a_lock_that_a_killed_job_left_beside_its_release_goes(unpushed: Desk) -> None:
    released, work = files(unpushed.out), unpushed.out.with_name("out.partial")
    shutil.rmtree(work / "pruned")
    for name in ("run.json", "prune.json", "release.json"):
        (work / name).unlink()
    assert unpushed.run(push(unpushed)).code == USAGE
    assert files(unpushed.out) == released
    assert not work.exists()
