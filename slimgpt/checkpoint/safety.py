"""Which files of a checkpoint directory may be opened at all.

A checkpoint may come from anyone. A shard index or a symlink that leads out of the directory would
make us read, and publish, files that the user never named (transformers itself joins ``weight_map``
paths unchecked).
"""

from __future__ import annotations

import json
from pathlib import Path, PureWindowsPath
from typing import Any

from slimgpt.errors import IntegrityError

_LARGEST_JSON_BYTES = 64 * 2**20


def inside(directory: Path, path: Path) -> Path:
    """The path, if it is a file whose target lies within the checkpoint.

    The target of a link may also lie in the same repository of the hub's cache, where snapshots
    are links to ``blobs/``.

    Raises:
        IntegrityError: it leads elsewhere.
    """
    target, root = path.resolve(), directory.resolve()
    if target.is_relative_to(root):
        return path
    if root.parent.name == "snapshots" and target.parent == root.parent.parent / "blobs":
        return path
    raise IntegrityError(
        f"{path.name} in {directory} is a link to a file outside the checkpoint ({target}): "
        "replace it by the file itself"
    )


def shard_path(directory: Path, name: object) -> Path:
    """The path of a shard that an index names.

    Raises:
        IntegrityError: the name is no plain relative path of a safetensors file in the directory.
    """
    if not isinstance(name, str) or not name.endswith(".safetensors"):
        raise IntegrityError(
            f"the shard index of {directory} names {name!r}: only .safetensors files are read"
        )
    windows = PureWindowsPath(name)
    if windows.is_absolute() or windows.drive or name.startswith("/") or ".." in windows.parts:
        raise IntegrityError(
            f"the shard index of {directory} names {name!r}, a path outside the directory"
        )
    path = directory / name
    if not path.exists() and not path.is_symlink():
        raise IntegrityError(f"shard {name} of {directory} is missing: download it again")
    return inside(directory, path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        IntegrityError: it is too large, no UTF-8, no JSON or no object.
    """
    if path.stat().st_size > _LARGEST_JSON_BYTES:
        raise IntegrityError(f"{path} is larger than {_LARGEST_JSON_BYTES} bytes: no config is")
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as reason:
        raise IntegrityError(f"{path} is not valid JSON: {reason}") from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value
