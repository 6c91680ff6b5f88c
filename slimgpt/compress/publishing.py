"""The last stage: the chosen weights, what was measured of them, and a seal over both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import CARD, MADE_ANEW, MANIFEST, Checkpoint
from slimgpt.checkpoint.writer import publish, sync, write_text_durably
from slimgpt.errors import IntegrityError
from slimgpt.release.card.card import CardFacts, write_card
from slimgpt.release.gates import GateResult
from slimgpt.release.manifest import seal
from slimgpt.release.recipe.recipe import Recipe
from slimgpt.workspace import Workspace

RELEASED = "released.json"


def put_together(
    candidate: Path,
    staging: Path,
    manifest: Mapping[str, Any],
    dense: Checkpoint,
    recipe: Recipe,
) -> None:
    """Fills the staging directory: everything but the signature.

    Args:
        candidate: the checkpoint to release; its files are linked, not copied.
        staging: an empty directory on the same disk.
        manifest: of the release, but for its files.
        dense: the model at the beginning of the line.
        recipe: names the exports.
    """
    for path in sorted(candidate.rglob("*")):
        relative = path.relative_to(candidate)
        if path.is_file() and str(relative) not in (CARD, MANIFEST, *MADE_ANEW):
            (staging / relative).parent.mkdir(parents=True, exist_ok=True)
            _link(path, staging / relative)
    made = Checkpoint(candidate)
    family = made.meta.family
    stock = made.meta.stored_type != family.pruned_model_type
    write_card(staging, CardFacts(manifest, made.shape, dense.shape, dense.directory, stock))
    seal(staging, manifest, bom=any(e.format == "cyclonedx" for e in recipe.exports))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
        sync(target)


def released_manifest(
    candidate: Mapping[str, Any],
    recipe: Recipe,
    judgement: Mapping[str, Any],
    gates: Sequence[GateResult],
) -> dict[str, Any]:
    """The manifest of a release: the candidate's, with what was asked, measured and decided."""
    document = recipe.to_document()
    asked = {key: document[key] for key in ("evaluate", "gates") if key in document}
    manifest = {key: value for key, value in candidate.items() if key not in ("files", "gates")}
    manifest["recipe"] = dict(candidate["recipe"]) | {"seed": recipe.seed} | asked
    manifest["quality"] = dict(candidate["quality"]) | rounded(judgement)
    if recipe.gates:
        manifest["gates"] = [rounded(asdict(gate)) for gate in gates]
    return manifest


def rounded(value: Any) -> Any:
    """Floats to five digits: further ones depend on the number of threads."""
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def mark_and_publish(workspace: Workspace, staging: Path, out: Path) -> None:
    """Publishes, so that a run killed at any moment knows OUT for its own."""
    digest = file_sha256(staging / MANIFEST)
    write_text_durably(workspace.directory / RELEASED, digest)
    publish(staging, out)


def is_released(workspace: Workspace, out: Path) -> bool:
    """Whether OUT is what an earlier part of this very job published.

    Raises:
        IntegrityError: it was changed since.
    """
    mark = workspace.directory / RELEASED
    if not out.exists() or not mark.exists():
        return False
    if not (out / MANIFEST).is_file() or file_sha256(out / MANIFEST) != mark.read_text("utf-8"):
        raise IntegrityError(f"{out} was changed since it was published: remove it and run again")
    return True
