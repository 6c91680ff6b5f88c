"""Keys in files, as their owners have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_keys(folder: Path, name: str, key: Any, password: bytes | None = None) -> None:
    """Writes ``name``, the private key, and ``name.pub``."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    encryption: KeySerializationEncryption = NoEncryption()
    if password:
        encryption = BestAvailableEncryption(password)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / name).write_bytes(private)
    (folder / f"{name}.pub").write_bytes(public)
