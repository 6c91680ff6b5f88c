"""Signatures of checkpoints: OpenSSF model signing with a private key (extra ``sign``).

``model.sig`` is a Sigstore bundle over a SHA-256 of every file but itself and hidden ones; the
command ``model_signing verify key`` reads it too. ECDSA draws a random number for each signature,
so of all files it alone differs between equal runs. Keyless signing through Sigstore needs a
browser and a public log, and is left to that command.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import SIGNATURE
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.errors import IntegrityError, UsageError, missing_extra

if TYPE_CHECKING:
    from model_signing.hashing import Config

PASSWORD = "SLIMGPT_SIGNING_PASSWORD"

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_KINDS = "an elliptic-curve key in PEM (P-256, P-384 or P-521)"


def sign(directory: Path, private_key: Path) -> Path:
    """Writes ``model.sig`` over every other file of a finished checkpoint.

    Args:
        directory: the checkpoint.
        private_key: PEM file; its password is taken from SLIMGPT_SIGNING_PASSWORD.

    Returns:
        The signature's path.

    Raises:
        UsageError: the key can't be read or is of another kind, or the password is wrong.
        IntegrityError: a file is a link out of the checkpoint.
        EnvironmentProblem: the ``sign`` extra is missing.
    """
    with _library("signing"):
        from model_signing.signing import Config
    require_private_key(private_key)
    password: Any = _password()  # annotated as a string, and used as the bytes that it is here
    signer = Config()  # type: ignore[no-untyped-call]
    signer.set_hashing_config(_hashing(directory))
    signer.use_elliptic_key_signer(private_key=private_key, password=password)
    signer.sign(directory, directory / SIGNATURE)
    return directory / SIGNATURE


def require_private_key(path: Path) -> None:
    """Refuses a key that :func:`sign` could not use, before hours are spent.

    Raises:
        UsageError: it can't be read or is of another kind, or the password is wrong.
        EnvironmentProblem: the ``sign`` extra is missing.
    """
    with _library("signing"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    password = _password()
    try:
        key: Any = load_pem_private_key(_pem(path, "signing key"), password)
    except TypeError:
        what = "is not encrypted: unset" if password else "is encrypted: put its password into"
        raise UsageError(f"signing key {path} {what} {PASSWORD}") from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = f", or {PASSWORD} is not its password" if password else ""
        raise UsageError(f"signing key {path} is no private key: give {_KINDS}{wrong}") from None
    _require_curve(key, f"signing key {path}")


def require_public_key(path: Path) -> None:
    """Refuses a key that :func:`verify_signature` could not use.

    Raises:
        UsageError: it can't be read or is of another kind.
        EnvironmentProblem: the ``sign`` extra is missing.
    """
    with _library("--public-key"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key: Any = load_pem_public_key(_pem(path, "--public-key"))
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"--public-key {path} is no public key: give {_KINDS}") from None
    _require_curve(key, f"--public-key {path}")


def verify_signature(directory: Path, public_key: Path) -> None:
    """Checks ``model.sig`` against a key, and every file against it.

    Raises:
        IntegrityError: another key made it, it is damaged, or a file is not the one that was
            signed, is missing, or was not signed at all.
        UsageError: the public key can't be used; see :func:`require_public_key`.
        EnvironmentProblem: the ``sign`` extra is missing.
    """
    with _library("--public-key"):
        from cryptography.exceptions import InvalidSignature
        from model_signing.verifying import Config
    require_public_key(public_key)
    path = directory / SIGNATURE
    read_json(inside(directory, path))  # of bounded size, and an object
    verifier = Config()  # type: ignore[no-untyped-call]
    verifier.set_hashing_config(_hashing(directory))
    verifier.use_elliptic_key_verifier(public_key=public_key)
    try:
        # The library prints where signatures of its old versions are concerned.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            verifier.verify(directory, path)
        signed = _signed(path)
    except InvalidSignature:
        raise IntegrityError(f"{path} was not made with the key of {public_key}") from None
    except ValueError as reason:
        raise IntegrityError(_words(directory, public_key, str(reason))) from None
    except (LookupError, TypeError, AttributeError, RecursionError) as reason:
        raise IntegrityError(f"{path} is no signature: it lacks {reason}") from None
    # The signer may say which files to leave out; here that must be none.
    if left_out := [name for name in _files(directory) if name not in signed]:
        raise IntegrityError(f"{path} leaves out {', '.join(left_out)}")


def _words(directory: Path, public_key: Path, reason: str) -> str:
    """The library's reasons in ours; where files differ, the signature itself is authentic."""
    path = directory / SIGNATURE
    if reason.startswith("Key mismatch"):
        return f"{path} was made with another key than {public_key}"
    if not reason.startswith("Signature mismatch"):
        return f"{path} is no signature that can be read: {reason.splitlines()[0]}"
    signed, present = _signed(path), _files(directory)
    changed = {
        "added or changed": [n for n in present if signed.get(n, "") != file_sha256(directory / n)],
        "missing": [name for name in signed if name not in present],
    }
    found = [f"{', '.join(names)} {what}" for what, names in changed.items() if names]
    return f"{path} is of other files: {'; '.join(found)} since"


@contextmanager
def _library(feature: str) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise missing_extra(feature, "sign") from None


def _password() -> bytes | None:
    return os.environ.get(PASSWORD, "").encode() or None


def _hashing(directory: Path) -> Config:
    """What a signature covers: every file but itself and hidden ones.

    Links are followed, as a checkpoint in the hub's cache is made of them, once it is known that
    they lead nowhere else.
    """
    from model_signing.hashing import Config

    for name in _files(directory):
        inside(directory, directory / name)
    hidden = [p.relative_to(directory) for p in directory.rglob(".*")]
    config = Config()  # type: ignore[no-untyped-call]
    config.set_ignored_paths(paths=[Path(SIGNATURE), *sorted(hidden)])
    return config.set_allow_symlinks(True)


def _files(directory: Path) -> list[str]:
    found = []
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        hidden = any(part.startswith(".") for part in relative.parts)
        folder = path.is_dir() and not path.is_symlink()
        if not hidden and not folder and relative != Path(SIGNATURE):
            found.append(relative.as_posix())
    return found


def _signed(signature: Path) -> dict[str, str]:
    """SHA-256 by name, from a signature whose authenticity is known."""
    payload = json.loads(signature.read_text("utf-8"))["dsseEnvelope"]["payload"]
    resources = json.loads(base64.b64decode(payload))["predicate"]["resources"]
    return {resource["name"]: resource["digest"] for resource in resources}


def _require_curve(key: Any, name: str) -> None:
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in _CURVES:
        raise UsageError(
            f"{name} is of another kind ({curve or type(key).__name__}): give {_KINDS}"
        )


def _pem(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as reason:
        raise UsageError(f"{name} {path} can't be read: {reason.strerror}") from None
