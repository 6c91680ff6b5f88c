"""The last stages of a job: signature and push."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from slimgpt.checkpoint.reader import SIGNATURE
from tests.command_line import ENVIRONMENT, USAGE, Desk
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
