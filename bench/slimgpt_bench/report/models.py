"""Models that a page tells of: read from manifests and from artefacts of results, and linked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.checkpoint.safety import read_json
from slimgpt.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Model:
    """A model that results or manifests tell of.

    Attributes:
        name: as they have it.
        digest: of its manifest.
        layers: widths of each: ``query_heads``, ``kv_heads``, ``ffn``.
        dense_layers: the same of what it was pruned from; empty where that is not told.
        parameters: of the model; None where that is not told.
        dense_parameters: of what it was pruned from.
        quality: as its manifest has it.
        gates: likewise.
        content: SHA-256 of what its files hold, as exports name what they were made from.
        exported_from: ``content`` of the checkpoint; None for what is no export.
        origin: digest of that checkpoint, where it is on the page.
    """

    name: str
    digest: str
    layers: tuple[Mapping[str, int], ...]
    dense_layers: tuple[Mapping[str, int], ...]
    parameters: int | None
    dense_parameters: int | None
    quality: Mapping[str, Any]
    gates: tuple[Mapping[str, Any], ...] = ()
    content: str | None = None
    exported_from: str | None = None
    origin: str | None = None


def is_pruned(model: Model) -> bool:
    """Whether a model has other widths than it had, or does not tell what it had."""
    return model.dense_layers != model.layers and bool(
        model.dense_layers or model.dense_parameters or model.quality.get("layers")
    )


def linked(models: list[Model]) -> list[Model]:
    """Exports with the checkpoints that they name."""
    checkpoints = {x.content: x.digest for x in models if x.content and not x.exported_from}
    return [
        replace(x, origin=checkpoints.get(x.exported_from)) if x.exported_from else x
        for x in models
    ]


def of_manifest(manifest: Path, path: Path) -> Model:
    """The model of a ``slimgpt.json``.

    Args:
        manifest: the file.
        path: as the user gave it.

    Raises:
        IntegrityError: it is none of ours.
    """
    told = read_json(manifest)
    try:
        source = told["source"]
        return Model(
            name=manifest.absolute().parent.name,
            digest=file_sha256(manifest),
            layers=_widths(_record(told["shape"])),
            dense_layers=_widths(source.get("shape")),
            parameters=_count(told["parameters"]["after"]),
            dense_parameters=_count(told["parameters"]["before"]),
            quality=_quality(told.get("quality")),
            gates=tuple(_records(told.get("gates"))),
            content=_content(told.get("files")),
            exported_from=_exported_from(told.get("recipe")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as reason:
        raise IntegrityError(f"{path}: {MANIFEST} is no manifest of slimgpt: {reason}") from None


def _content(files: Any) -> str | None:
    """As :func:`slimgpt.checkpoint.digest.source_digest` has it of the same files."""
    lines = (f"{digest}  {name}\n" for name, digest in sorted(_record(files or {}).items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest() if files else None


def _exported_from(recipe: Any) -> str | None:
    told = _record(_record(recipe or {}).get("export") or {}).get("model_digest")
    return told if isinstance(told, str) else None


def _quality(told: Any) -> Mapping[str, Any]:
    """A manifest's quality, once what is read of it is found to be of the right kind.

    Raises:
        TypeError: it is not.
    """
    quality: dict[str, Any] = _record(told or {})
    for layer in _records(quality.get("layers")):
        for block in layer.values():
            _record(block)
    _records(quality.get("texts"))
    for task in _record(quality.get("tasks") or {}).values():
        _record(task)
    return quality


def _records(told: Any) -> list[dict[str, Any]]:
    if not isinstance(told or [], list):
        raise TypeError(f"{told!r:.40} is no list")
    return [_record(x) for x in told or []]


def _record(told: Any) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise TypeError(f"{told!r:.40} is no object")
    return told


def of_artefact(artefact: Mapping[str, Any]) -> Model:
    """The model that a result tells of.

    Raises:
        IntegrityError: there can be no such model.
    """
    try:
        return Model(
            name=artefact["name"],
            digest=artefact["digest"],
            layers=_widths(artefact["shape"]),
            dense_layers=_widths(artefact["dense_shape"]),
            parameters=artefact["parameters"],
            dense_parameters=None,
            quality=_quality(artefact["quality"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as reason:
        raise IntegrityError(f"a result tells of a model that can't be: {reason}") from None


def _widths(shape: Mapping[str, Any] | None) -> tuple[Mapping[str, int], ...]:
    names = ("query_heads", "kv_heads", "ffn")
    layers = shape["layers"] if shape else ()
    return tuple({name: _count(layer[name]) for name in names} for layer in layers)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r:.40} is no count")
    return value
