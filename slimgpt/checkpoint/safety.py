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
_LONGEST_NAME = 255


def inside(directory: Path, path: Path) -> Path:
    """The path, if it is a file whose target lies within the checkpoint.

    The target of a link may also lie in the same repository of the hub's cache, where snapshots
    are links to ``blobs/``.

    Raises:
        IntegrityError: it leads elsewhere, or to no file.
    """
    try:
        target, root = path.resolve(), directory.resolve()
    except (OSError, RuntimeError):  # Python 3.11 and 3.12 raise RuntimeError for a loop of links
        raise IntegrityError(f"{path.name} in {directory} is no file, nor a link to one") from None
    in_hub_cache = root.parent.name == "snapshots" and (
        target.parent == root.parent.parent / "blobs"
    )
    if not (target.is_relative_to(root) or in_hub_cache):
        raise IntegrityError(
            f"{path.name} in {directory} is a link to a file outside the checkpoint ({target}): "
            "replace it by the file itself"
        )
    if not target.is_file():
        raise IntegrityError(f"{path.name} in {directory} is no file, nor a link to one")
    return path


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
    if len(name) > _LONGEST_NAME or not (path.exists() or path.is_symlink()):
        raise IntegrityError(f"shard {name} of {directory} is missing: download it again")
    return inside(directory, path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        IntegrityError: it can't be read, is too large, no UTF-8, no JSON or no object.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON_BYTES:
            raise IntegrityError(f"{path} is larger than {_LARGEST_JSON_BYTES} bytes: no config is")
        value = json.loads(path.read_text("utf-8"))
    except OSError as reason:
        raise IntegrityError(f"{path} can't be read: {reason.strerror}") from None
    except (ValueError, RecursionError) as reason:
        raise IntegrityError(f"{path} is not valid JSON: {reason}") from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value
