"""What a page is made from: saved results and the manifests of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.checkpoint.safety import inside
from slimgpt.errors import UsageError
from slimgpt_bench.report.models import Model, linked, of_artefact, of_manifest
from slimgpt_bench.results import read
from slimgpt_bench.results.saving import RESULT, UNCHECKED

SIDES = ("dense", "pruned", "third")


@dataclass(frozen=True, slots=True)
class Pages:
    """All that a page is to show.

    Attributes:
        results: documents, in the order given.
        models: every model once, those of manifests first.
    """

    results: tuple[Mapping[str, Any], ...]
    models: tuple[Model, ...]

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """Documents of one kind."""
        return [x for x in self.results if x["kind"] == kind]

    def model(self, artefact: Mapping[str, Any]) -> Model:
        """The model of an artefact of a document."""
        return next(x for x in self.models if x.digest == artefact["digest"])

    def origin(self, model: Model) -> Model | None:
        """The checkpoint that a model was exported from, where it is on the page."""
        return next((x for x in self.models if x.digest == model.origin), None)


def gather(paths: Sequence[Path]) -> Pages:
    """Reads everything; a result that is given twice counts once.

    Raises:
        UsageError: a path is neither a result nor a pruned checkpoint.
        IntegrityError: one is damaged.
    """
    results: list[dict[str, Any]] = []
    models: dict[str, Model] = {}
    for path in paths:
        manifest = _manifest_of(path)
        if manifest:
            found = of_manifest(manifest, path)
            models[found.digest] = found
        elif (document := read(path)) not in results:
            results.append(document)
    for document in results:
        for artefact in artefacts(document):
            models.setdefault(artefact["digest"], of_artefact(artefact))
    for dense, other in [pair for document in results for pair in _pairs(document)]:
        models[other["digest"]] = _child(models[other["digest"]], models[dense["digest"]])
    for judged in [x for d in results if d["kind"] == "quality" for x in d["models"]]:
        digest = judged["artefact"]["digest"]
        models[digest] = _judged(models[digest], judged["texts"])
    return Pages(tuple(results), _named(linked(list(models.values()))))


def _pairs(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Dense models, each with one that is held against it."""
    match document["kind"]:
        case "compare":
            yield from ((document["dense"], x) for x in artefacts(document))
        case "quality":
            yield from ((document["artefact"], x["artefact"]) for x in document["models"])
        case "capacity" if document["baseline"] and document["artefact"]:
            yield document["baseline"]["artefact"], document["artefact"]


def _child(model: Model, dense: Model) -> Model:
    """A model with what its own manifest left out of the dense one."""
    if model.digest == dense.digest:
        return model
    return replace(
        model,
        dense_layers=model.dense_layers or dense.layers,
        dense_parameters=model.dense_parameters or dense.parameters,
    )


def _judged(model: Model, texts: Sequence[Mapping[str, Any]]) -> Model:
    """A model with what was measured later than its manifest was written."""
    known = [_text_key(x) for x in model.quality.get("texts") or ()]
    later = [x for x in texts if _text_key(x) not in known]
    told = [*(model.quality.get("texts") or ()), *later]
    return replace(model, quality={**model.quality, "texts": told})


def _text_key(text: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(text.get(k)) for k in ("text", "sha256", "window", "protocol", "dtype"))


def _named(models: list[Model]) -> tuple[Model, ...]:
    """Models of the same name are told apart by their digests."""
    names = [x.name for x in models]
    return tuple(
        x if names.count(x.name) == 1 else replace(x, name=f"{x.name} ({x.digest[:8]})")
        for x in models
    )


def artefacts(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The models of a result."""
    told = [document.get(name) for name in (*SIDES, "artefact")]
    told += [x["artefact"] for x in document.get("models") or ()]
    told += [(document.get("baseline") or {}).get("artefact")]
    return [x for x in told if x]


def _manifest_of(path: Path) -> Path | None:
    """The manifest that a path is or holds; None for what may be a result."""
    if path.name == MANIFEST and path.is_file():
        return path
    if not path.is_dir() or any((path / name).exists() for name in (RESULT, UNCHECKED)):
        return None
    if (path / MANIFEST).exists():
        return inside(path, path / MANIFEST)
    raise UsageError(
        f"{path} holds neither {RESULT} nor {MANIFEST}: give what --save made, or a checkpoint "
        "that slimgpt made"
    )
