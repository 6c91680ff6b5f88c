"""From what the user typed for MODEL to a directory: a path, or a hub id fetched to the cache."""

from __future__ import annotations

import re
from pathlib import Path

from slimgpt.errors import EnvironmentProblem, UsageError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CONFIG = ["config.json", "slimgpt.json"]
_UNWANTED = ["*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.gguf", "original/*"]
_UNWANTED += ["*/*.onnx", "*/*.onnx_data", "*/*.onnx.data"]  # an export of ours has none in folders
_UNWANTED += ["consolidated*"]  # the same weights again, in Mistral's own format


def locate(model: str, *, config_only: bool = False) -> Path:
    """The directory of a checkpoint.

    Args:
        model: a directory, or a hub id like ``org/name``, downloaded unless it is in the cache.
        config_only: fetch nothing but the configs of a hub id.

    Raises:
        UsageError: neither exists.
        EnvironmentProblem: the hub can't be reached.
    """
    try:
        path = Path(model).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as reason:  # too long a name, or the home of no user
        raise UsageError(f"MODEL {model} can't be a path: {reason}") from None
    if path.is_dir():
        if not (path / "config.json").exists():
            raise UsageError(f"{path} has no config.json: MODEL is a checkpoint directory")
        return path
    if exists:
        raise UsageError(f"{model} is a file: MODEL is a checkpoint directory or a hub id")
    if model.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(model):
        raise UsageError(f"{model} does not exist: MODEL is a checkpoint directory or a hub id")
    return _from_hub(model, config_only)


def _from_hub(model: str, config_only: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                model,
                allow_patterns=_CONFIG if config_only else None,
                ignore_patterns=_UNWANTED,
            )
        )
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError):
        raise UsageError(
            f"{model} is neither a directory here nor a repository of the hub that you may read"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise EnvironmentProblem(
            f"{model} is no directory here, and the hub can't be reached to look for it"
        ) from None
