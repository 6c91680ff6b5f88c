"""Where a checkpoint comes from, as its manifest tells: kept when it is worked on again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimgpt.checkpoint.reader import MANIFEST, Checkpoint
from slimgpt.errors import IntegrityError
from slimgpt.release.manifest import read_manifest

_JUDGED = ("evaluate", "gates", "evaluation")
"""Keys of a recipe that tell how a checkpoint was judged, which holds for its own bytes alone."""
_OF_CUTS = ("layers", "influence")
"""Entries of the quality that tell how layers were cut, or why some of them went."""
_COUNTS = ("before", "after", "decoder_before", "decoder_after")


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a result inherits from the checkpoint that it is made from.

    Attributes:
        source: name and digest of the model at the beginning of the line, and its shape once
            it is pruned.
        recipe: what was done since.
        counts: parameters of the first and of this model.
        quality: what was measured while pruning.
    """

    source: Mapping[str, Any]
    recipe: Mapping[str, Any]
    counts: Mapping[str, int]
    quality: Mapping[str, Any]


def read_lineage(checkpoint: Checkpoint, name: str, digest: str) -> Lineage:
    """The lineage of a checkpoint; one that slimgpt did not make begins its own.

    Args:
        checkpoint: what is to be worked on.
        name: what to call it where it begins a line.
        digest: of it.

    Raises:
        IntegrityError: its manifest is not one of slimgpt, or tells of another model.
    """
    manifest = read_manifest(checkpoint.directory)
    shape = checkpoint.shape
    if manifest is None:
        own = {
            "before": shape.parameters,
            "after": shape.parameters,
            "decoder_before": shape.decoder_parameters,
            "decoder_after": shape.decoder_parameters,
        }
        return Lineage({"name": name, "digest": digest}, {}, own, {})
    source, recipe = manifest.get("source"), manifest.get("recipe")
    counts, quality = manifest.get("parameters"), manifest.get("quality")
    if not (
        isinstance(source, dict)
        and all(isinstance(source.get(key), str) for key in ("name", "digest"))
        and isinstance(recipe, dict)
        and isinstance(counts, dict)
        and all(type(counts.get(key)) is int for key in _COUNTS)
        and isinstance(quality, dict)
        and manifest.get("shape") == shape.to_manifest()
    ):
        raise IntegrityError(
            f"{checkpoint.directory / MANIFEST} is no manifest of this checkpoint: make it again, "
            "or remove that file"
        )
    # What was measured before says nothing of what comes next; how layers were cut stays true.
    done = {key: entry for key, entry in recipe.items() if key not in _JUDGED}
    kept = {key: quality[key] for key in _OF_CUTS if key in quality}
    return Lineage(source, done, counts, kept)
