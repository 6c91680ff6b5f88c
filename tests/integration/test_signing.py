"""OpenSSF signatures: made with real keys, and broken in every way."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.reader import SIGNATURE
from slimgpt.demo import MODEL
from slimgpt.errors import IntegrityError, UsageError
from slimgpt.release.signing import (
    PASSWORD,
    require_private_key,
    sign,
    verify_signature,
)

pytest.importorskip("model_signing", reason="needs the sign extra")

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.signing_keys import write_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    own = ec.generate_private_key(ec.SECP256R1())
    write_keys(folder, "own", own)
    write_keys(folder, "locked", own, b"open sesame")
    write_keys(folder, "other", ec.generate_private_key(ec.SECP256R1()))
    write_keys(folder, "p521", ec.generate_private_key(ec.SECP521R1()))
    write_keys(folder, "koblitz", ec.generate_private_key(ec.SECP256K1()))
    write_keys(folder, "rsa", rsa.generate_private_key(65537, 2048))
    write_keys(folder, "edwards", ed25519.Ed25519PrivateKey.generate())
    (folder / "text").write_text("no key")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    shutil.copytree(MODEL, path)
    (path / "templates").mkdir()
    (path / "templates" / "tools.jinja").write_text("{{ tools }}")
    return path


@pytest.mark.parametrize("name", ["own", "p521"])
def test_a_signature_holds_wherever_the_model_lies(model: Path, keys: Path, name: str) -> None:
    assert sign(model, keys / name) == model / SIGNATURE
    verify_signature(model, keys / f"{name}.pub")
    elsewhere = model.rename(model.parent / "elsewhere")
    verify_signature(elsewhere, keys / f"{name}.pub")


def test_a_key_may_have_a_password(
    model: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "open sesame")
    sign(model, keys / "locked")
    monkeypatch.delenv(PASSWORD)
    verify_signature(model, keys / "own.pub")


def test_a_model_may_be_signed_anew(model: Path, keys: Path) -> None:
    sign(model, keys / "other")
    sign(model, keys / "own")
    verify_signature(model, keys / "own.pub")


def test_hidden_files_may_come_and_go(model: Path, keys: Path) -> None:
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").write_text("x")
    (model / "templates" / ".hidden").symlink_to("/etc/hostname")
    sign(model, keys / "own")
    (model / ".cache").mkdir()
    (model / ".cache" / "x").write_text("x")
    shutil.rmtree(model / ".git")
    verify_signature(model, keys / "own.pub")


def test_a_checkpoint_in_the_hub_cache_can_be_verified(model: Path, keys: Path) -> None:
    sign(model, keys / "own")
    blobs, snapshot = model.parent / "hub" / "blobs", model.parent / "hub" / "snapshots" / "main"
    blobs.mkdir(parents=True)
    shutil.copytree(model, snapshot)
    for number, path in enumerate(sorted(p for p in snapshot.iterdir() if p.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    verify_signature(snapshot, keys / "own.pub")


def edited(name: str) -> Any:
    return lambda model: (model / name).write_text("changed")


SPOILED: dict[str, tuple[Any, str]] = {
    "a file changed": (edited("config.json"), r"of other files: config.json added or changed"),
    "a file in a folder changed": (edited("templates/tools.jinja"), "templates/tools.jinja added"),
    "a file added": (edited("modeling.py"), "modeling.py added or changed"),
    "a file removed": (lambda m: (m / "README.md").unlink(), "README.md missing since"),
    "two at once": (
        lambda m: [edited("x")(m), (m / "README.md").unlink()],
        "x added or changed; README.md missing",
    ),
    "a link out": (
        lambda m: (m / "x").symlink_to("/etc/hostname"),
        "a link to a file outside the checkpoint",
    ),
    "no signature": (lambda m: (m / SIGNATURE).unlink(), "model.sig .* is no file"),
    "an empty one": (edited(SIGNATURE), "not valid JSON"),
    "another document": (lambda m: (m / SIGNATURE).write_text("{}"), "is no signature: it lacks"),
    "a list": (lambda m: (m / SIGNATURE).write_text("[]"), "holds a JSON list"),
    "deep": (lambda m: (m / SIGNATURE).write_text("[" * 99_999), "not valid JSON"),
}


@pytest.mark.parametrize(("spoil", "says"), SPOILED.values(), ids=SPOILED)
def test_what_is_not_as_it_was_signed(model: Path, keys: Path, spoil: Any, says: str) -> None:
    sign(model, keys / "own")
    spoil(model)
    with pytest.raises(IntegrityError, match=says):
        verify_signature(model, keys / "own.pub")


def bundle_with(model: Path, *path: str, value: Any) -> None:
    """Changes one entry of the signature."""
    document = json.loads((model / SIGNATURE).read_text())
    entry = document
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    (model / SIGNATURE).write_text(json.dumps(document))


BUNDLES: dict[str, tuple[tuple[str, ...], Any]] = {
    "signed by nobody": (("dsseEnvelope", "signatures"), []),
    "signed with zeros": (("dsseEnvelope", "signatures"), [{"sig": "AAAA", "keyid": ""}]),
    "of another payload": (("dsseEnvelope", "payload"), base64.b64encode(b"{}").decode()),
    "of no payload": (("dsseEnvelope", "payload"), 5),
    "of another kind": (("mediaType",), "text/plain"),
    "without material": (("verificationMaterial",), {}),
    "material of strings": (("verificationMaterial",), "x"),
    "without an envelope": (("dsseEnvelope",), None),
}


@pytest.mark.parametrize(("path", "value"), BUNDLES.values(), ids=BUNDLES)
def test_a_bundle_that_is_none(
    model: Path, keys: Path, path: tuple[str, ...], value: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    sign(model, keys / "own")
    bundle_with(model, *path, value=value)
    with pytest.raises(IntegrityError, match=r"model\.sig"):
        verify_signature(model, keys / "own.pub")
    assert capfd.readouterr() == ("", "")


def test_another_key_is_named(model: Path, keys: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sign(model, keys / "own")
    with pytest.raises(IntegrityError, match=r"was made with another key than .*other\.pub"):
        verify_signature(model, keys / "other.pub")
    # A forger leaves out the hint at the key.
    bundle_with(model, "verificationMaterial", "publicKey", value={})
    with pytest.raises(IntegrityError, match=r"was not made with the key of .*other\.pub"):
        verify_signature(model, keys / "other.pub")
    verify_signature(model, keys / "own.pub")
    assert capfd.readouterr() == ("", "")


def test_a_signature_that_leaves_a_file_out_is_refused(model: Path, keys: Path) -> None:
    from model_signing import hashing, signing

    ignoring = hashing.Config().set_ignored_paths(paths=["model.safetensors", SIGNATURE])
    signer = signing.Config().set_hashing_config(ignoring)
    signer.use_elliptic_key_signer(private_key=keys / "own").sign(model, model / SIGNATURE)
    with pytest.raises(IntegrityError, match=r"leaves out model\.safetensors"):
        verify_signature(model, keys / "own.pub")


NO_KEYS: dict[str, str] = {
    "koblitz": r"of another kind \(secp256k1\): give an elliptic-curve key in PEM",
    "rsa": r"of another kind \(RSA",
    "edwards": r"of another kind \(Ed25519",
    "text": r"is no (private|public) key: give an elliptic-curve key",
    "nothing": "can't be read: No such file",
    ".": "can't be read: Is a directory",
}


@pytest.mark.parametrize(("name", "says"), NO_KEYS.items(), ids=NO_KEYS)
def test_keys_that_cannot_be_used(model: Path, keys: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"signing key .*{says}"):
        sign(model, keys / name)
    assert not (model / SIGNATURE).exists()
    sign(model, keys / "own")
    public = name if name in ("text", "nothing", ".") else f"{name}.pub"
    with pytest.raises(UsageError, match=f"--public-key .*{says}"):
        verify_signature(model, keys / public)


def test_private_and_public_keys_are_told_apart(model: Path, keys: Path) -> None:
    with pytest.raises(UsageError, match=r"own\.pub is no private key"):
        sign(model, keys / "own.pub")
    sign(model, keys / "own")
    with pytest.raises(UsageError, match="own is no public key"):
        verify_signature(model, keys / "own")


@pytest.mark.parametrize(
    ("name", "password", "says"),
    [
        ("locked", None, f"is encrypted: put its password into {PASSWORD}"),
        ("locked", "open", f"or {PASSWORD} is not its password"),
        ("own", "open", f"is not encrypted: unset {PASSWORD}"),
    ],
)
def test_passwords_that_do_not_fit(
    keys: Path, monkeypatch: pytest.MonkeyPatch, name: str, password: str | None, says: str
) -> None:
    if password:
        monkeypatch.setenv(PASSWORD, password)
    with pytest.raises(UsageError, match=says):
        require_private_key(keys / name)
