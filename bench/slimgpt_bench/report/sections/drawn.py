"""Which colour and shape each model has: the dense one is plain, so that the others stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt_bench.report.blocks import Series
from slimgpt_bench.report.models import is_pruned
from slimgpt_bench.report.runs import Pages


def series_of(pages: Pages, documents: Sequence[Mapping[str, Any]]) -> tuple[Series, ...]:
    """One for each result, in their order."""
    models = [pages.model(x["artefact"]) if x["artefact"] else None for x in documents]
    pruned = [model is not None and is_pruned(model) for model in models]
    plain = pruned.index(False) if any(pruned) and not all(pruned) else None
    found: list[Series] = []
    for i, document in enumerate(documents):
        place = len([x for x in found if not x.plain])
        found.append(Series(name_of(pages, document), place, plain=i == plain))
    return tuple(found)


def name_of(pages: Pages, document: Mapping[str, Any]) -> str:
    """Of the model of a result, with its run where several are of it; else of what was asked."""
    if document["artefact"]:
        name = pages.model(document["artefact"]).name
        alike = [x for x in pages.of(document["kind"]) if x["artefact"] == document["artefact"]]
        return f"{name}, run {pages.results.index(document) + 1}" if len(alike) > 1 else name
    target = document.get("target") or {}
    return str(target.get("model") or target.get("url") or "unknown model")
