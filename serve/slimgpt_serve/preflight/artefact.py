"""What is to be served: a checkpoint, dense or quantised, whose headers agree with its config."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.quantized import is_quantized, read_quantized
from slimgpt.checkpoint.reader import MANIFEST, Checkpoint, ConfigOnly, read_headers
from slimgpt.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Artefact:
    """A checkpoint directory that has been checked.

    Attributes:
        name: as the user gave it.
        meta: its config.
        packed_bytes: of all stored tensors, where the weights are quantised.
    """

    name: str
    meta: ConfigOnly
    packed_bytes: int | None = None

    @property
    def directory(self) -> Path:
        return self.meta.directory

    @property
    def shape(self) -> ModelShape:
        return self.meta.shape

    @property
    def served_name(self) -> str:
        """What clients ask for: the hub id, or the last part of the path."""
        path = Path(self.name).expanduser()
        return path.resolve().name if path.is_dir() else self.name


def read_artefact(name: str, directory: Path) -> Artefact:
    """Reads config and headers; no weights, no torch.

    Raises:
        IntegrityError: they are damaged, or disagree.
        UsageError: the architecture or the number format is not supported.
    """
    if is_quantized(directory):
        packed = read_quantized(directory)
        return Artefact(name, packed.meta, packed.weight_bytes)
    return Artefact(name, Checkpoint(directory).meta)


def artefact_digest(directory: Path) -> str:
    """What tells one artefact from another, without reading its weights.

    SHA-256 of slimgpt.json, which has that of every file. A checkpoint without one: of config.json,
    and of the name, shape, type and file of every tensor with the sizes of the files.
    """
    if (directory / MANIFEST).is_file():
        return file_sha256(directory / MANIFEST)
    where, headers = read_headers(directory)
    told = {
        "config": file_sha256(directory / "config.json"),
        "tensors": {name: [*headers[name], where[name].name] for name in sorted(headers)},
        "sizes": {path.name: path.stat().st_size for path in sorted(set(where.values()))},
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
