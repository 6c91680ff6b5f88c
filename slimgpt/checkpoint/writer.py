"""Writing a checkpoint so that it appears complete or not at all.

Blocks (the outer tensors, then one per decoder layer) are made durable one by one in a work
directory; :func:`assemble` gathers them into shards, and :func:`publish` renames the finished
directory into place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import (
    CARD,
    INDEX,
    MADE_ANEW,
    MANIFEST,
    SINGLE,
    SOURCE_CARD,
    Checkpoint,
)
from slimgpt.errors import EnvironmentProblem

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 2**30
"""Blocks are gathered into shards of about this size; a larger block is a shard of its own."""


def write_durably(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file that is there whole, on the disk, or not at all.

    Raises:
        EnvironmentProblem: it can't be written, because the disk is full, say.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".partial")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, partial, metadata={"format": "pt", **metadata})
    except SafetensorError as reason:
        raise EnvironmentProblem(f"{partial} can't be written: {reason}") from None
    partial.chmod(_usual_mode())  # safetensors makes files that only their owner may read
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def _usual_mode() -> int:
    """Permissions that a new file of this process has."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def sync(path: Path) -> None:
    """Flushes a file or a directory entry to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shard_plan(block_bytes: list[int], limit: int) -> list[list[int]]:
    """Groups consecutive blocks into shards of at most ``limit`` bytes, or of one block.

    >>> shard_plan([4, 3, 3, 9, 1], limit=7)
    [[0, 1], [2], [3], [4]]
    """
    shards: list[list[int]] = []
    filled = 0
    for block, size in enumerate(block_bytes):
        if not shards or filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(block)
        filled += size
    return shards


def assemble(blocks: list[Path], directory: Path) -> None:
    """Gathers block files into ``model*.safetensors`` and, above one shard, an index.

    Holds one shard in memory at a time.
    """
    from safetensors import safe_open

    shards = shard_plan([path.stat().st_size for path in blocks], SHARD_BYTES)
    weight_map: dict[str, str] = {}
    total = 0
    for number, members in enumerate(shards, 1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors: dict[str, Tensor] = {}
        for block in members:
            with safe_open(blocks[block], framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        write_durably(directory / name, tensors, {})
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(t.nbytes for t in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(directory / INDEX, index)


def copy_sidecars(source: Checkpoint, directory: Path) -> None:
    """Copies everything beside weights and config; the source's card steps aside for ours.

    What slimgpt put there about the source itself (picture, bill of materials, signature) stays.
    """
    sidecars = source.sidecars()
    for relative in sidecars:
        if str(relative) in MADE_ANEW:
            continue
        if str(relative) == CARD and Path(SOURCE_CARD) in sidecars:
            continue  # pruned before: the card of the first source is the one to keep
        target = directory / (SOURCE_CARD if str(relative) == CARD else relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.directory / relative, target)


def write_text_durably(path: Path, text: str) -> None:
    """A UTF-8 file that is there whole, on the disk, or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented UTF-8 JSON, in the order of the mapping."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def file_digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory except the manifest."""
    return {
        str(path.relative_to(directory)): file_sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / MANIFEST
    }


def publish(directory: Path, out: Path) -> None:
    """Makes a finished directory durable and renames it to OUT, which must not exist."""
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)
    directory.rename(out)
    sync(out.parent)
