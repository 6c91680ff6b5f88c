"""Pushing a finished checkpoint to the hub: one commit, of the files that its manifest names.

The commit is the only step that shows, so a push that is interrupted changes nothing there, and
what had arrived before is not sent again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import slimgpt
from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import MANIFEST, SIGNATURE
from slimgpt.checkpoint.safety import inside
from slimgpt.errors import EnvironmentProblem, IntegrityError, UsageError
from slimgpt.progress import Progress, Silent, stage
from slimgpt.release.hub_client import hub_client, token_for
from slimgpt.release.manifest import read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

_PART = r"[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"(?!.*(--|\.\.)){_PART}/{_PART}(?<!\.git)", re.ASCII)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")


def require_pushable(repository: str) -> None:
    """What can be checked of a push before a pipeline starts, without the network.

    Raises:
        UsageError: ``push.repository`` is no id that the hub can have.
        EnvironmentProblem: the environment holds no token, or HF_HUB_OFFLINE forbids the push.
    """
    from huggingface_hub import constants

    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(
            f"push.repository {repository!r} is no id of the hub: give ORGANISATION/NAME, both of "
            "letters, digits, '-', '_' and '.', without '--' and '..' and with no '.git' behind"
        )
    if constants.HF_HUB_OFFLINE:
        raise EnvironmentProblem(
            f"push to {repository} needs the network, which HF_HUB_OFFLINE forbids: unset it, or "
            "leave push out of the recipe"
        )
    token_for(f"push to {repository}")


def push(
    directory: Path, repository: str, *, private: bool, progress: Progress | None = None
) -> str:
    """Uploads a checkpoint as one commit on the main branch of a repository of the hub.

    The repository is made if it is not there. Only the files of the manifest, the manifest and the
    signature are sent. Weights, an index or a signature that are there and are not of this release
    are deleted in the same commit, since loaders would mix them with the new ones; all else stays.
    Pushing the same directory again makes no commit.

    Args:
        directory: a checkpoint with slimgpt.json.
        repository: like ``org/name``.
        private: makes a new repository private, and refuses one that exists and is public.
        progress: watches; told bytes.

    Returns:
        The URL of the commit that holds the files.

    Raises:
        UsageError: the id is malformed, the directory is no finished checkpoint, or the
            repository is public against ``private``.
        EnvironmentProblem: no token; the hub can't be reached, or refuses, fails or hangs up.
        IntegrityError: a file is not what the manifest says, or the hub left one out.
    """
    require_pushable(repository)
    purpose, watcher = f"push to {repository}", progress or Silent()
    token = token_for(purpose)
    sizes = _checked_files(directory, watcher)
    with hub_client(purpose, token, watcher):
        from huggingface_hub import HfApi

        api = HfApi(token=token.secret, library_name="slimgpt")
        there = _open_repository(api, repository, private)
        url = _commit(api, directory, there, sizes, watcher)
    watcher.message(f"{repository} has the {len(sizes)} files of {directory.name}: {url}")
    return url


def _checked_files(directory: Path, progress: Progress) -> dict[str, int]:
    """The files to push and their bytes, once each has been compared with the manifest.

    Raises:
        UsageError: there is no manifest.
        IntegrityError: a file differs from the manifest, or must not be published.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        raise UsageError(
            f"{directory} has no {MANIFEST}: only a finished checkpoint of SlimGPT can be pushed"
        )
    digests = manifest.get("files")
    if not isinstance(digests, dict) or not digests:
        raise IntegrityError(f"{directory / MANIFEST} names no files: it is damaged")
    extra = [MANIFEST] + ([SIGNATURE] if (directory / SIGNATURE).exists() else [])
    sizes = {name: _size(directory, name) for name in sorted({*digests, *extra})}
    with stage(progress, "checking the files to push", sum(sizes.values())):
        for name, size in sizes.items():
            if name in digests and file_sha256(directory / name) != digests[name]:
                raise IntegrityError(
                    f"{directory / name} is not the file that {MANIFEST} describes (its SHA-256 "
                    "differs), so it is not pushed: make the checkpoint again"
                )
            progress.advance(size)
    return sizes


def _size(directory: Path, name: str) -> int:
    """Bytes of a file that may be published: not hidden, and in the checkpoint."""
    path = PurePosixPath(name)
    if str(path) != name or path.is_absolute() or any(x.startswith(".") for x in path.parts):
        raise IntegrityError(
            f"{directory / MANIFEST} names {name!r}: hidden files and files outside the checkpoint "
            "are not pushed"
        )
    return inside(directory, directory / name).stat().st_size


def _open_repository(api: HfApi, repository: str, private: bool) -> ModelInfo:
    """What is in the repository, which is made if it is not there."""
    api.create_repo(repository, private=private, exist_ok=True)
    info = api.model_info(repository)
    if private and info.private is False:
        raise UsageError(
            f"push.private is true, but {repository} exists and is public: make it private, give "
            "another push.repository, or set push.private to false"
        )
    return info


def _commit(
    api: HfApi, directory: Path, there: ModelInfo, sizes: dict[str, int], progress: Progress
) -> str:
    """Uploads the files and commits them; where nothing differs, the commit that is there stays."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    additions = {name: CommitOperationAdd(name, directory / name) for name in sizes}
    stale = sorted(x for x in _names(there) - set(sizes) if _WEIGHTS.fullmatch(x) or x == SIGNATURE)
    operations: list[Any] = [*additions.values(), *map(CommitOperationDelete, stale)]
    shards = [name for name in sizes if _WEIGHTS.fullmatch(name)]
    with stage(progress, f"pushing to {there.id}", sum(sizes.values())):
        for name in shards:  # one by one, so that a bar moves
            api.preupload_lfs_files(there.id, [additions[name]], free_memory=False)
            progress.advance(sizes[name])
        commit = api.create_commit(
            there.id,
            operations,
            commit_message=f"Checkpoint made with SlimGPT {slimgpt.__version__}",
            commit_description=f"SHA-256 of {MANIFEST}: {file_sha256(directory / MANIFEST)}",
            parent_commit=there.sha,
        )
        progress.advance(sum(sizes.values()) - sum(sizes[name] for name in shards))
    _require_complete(api.model_info(there.id, revision=commit.oid), sizes)
    return commit.commit_url


def _names(info: ModelInfo) -> set[str]:
    return {x.rfilename for x in info.siblings or ()}


def _require_complete(info: ModelInfo, names: Iterable[str]) -> None:
    """A .gitignore in the repository makes the hub leave files out without a word."""
    missing = sorted(set(names) - _names(info))
    if missing and info.siblings is not None:  # a mirror may list nothing
        raise IntegrityError(
            f"push to {info.id}: the hub took the commit, but left out {', '.join(missing)}: look "
            "for a .gitignore there that excludes it"
        )
