"""Perplexity and KL of several models beside the dense one, on one text with one protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimgpt.errors import UsageError
from slimgpt.evaluate.judge import check, judge
from slimgpt.evaluate.judgement import TextSpec
from slimgpt.progress import Progress
from slimgpt.resources import resolve_device
from slimgpt_bench.artefact import Artefact, describe
from slimgpt_bench.provenance import environment
from slimgpt_bench.results import envelope


def bench_quality(
    dense: Path,
    models: Sequence[Path],
    texts: Sequence[TextSpec],
    *,
    device: str,
    dtype: str,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Scores every model beside the dense one.

    Args:
        dense: a checkpoint, or an ONNX export.
        models: what was made from it.
        texts: at least one.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: to compute in.
        seed: of the record; nothing here is drawn.
        progress: watches.

    Returns:
        a document of kind ``quality``: ``models``, each an artefact and its texts.

    Raises:
        UsageError: nothing to score, a tokenizer is another, or a text is too short.
    """
    if not models or not texts:
        raise UsageError("nothing to measure: give DENSE, at least one OUT, and --text FILE")
    described = [describe(path) for path in (dense, *models)]
    _require_one_tokenizer(described)
    for model in models:
        check(model, dense, texts, None, device=device)
    judged = []
    for artefact in described[1:]:
        found = judge(
            artefact.directory,
            dense,
            texts,
            None,
            device=device,
            dtype=dtype,
            seed=seed,
            progress=progress,
        )
        judged.append({"artefact": artefact.to_json(), **found.to_json(), **found.runtime})
    problems = [
        f"{x['artefact']['name']}: the perplexity of {t['text']} is no finite number"
        for x in judged
        for t in x["texts"]
        if t["perplexity"] is None or t["baseline_perplexity"] is None
    ]
    return envelope(
        "quality",
        artefact=described[0].to_json(),
        workload=_workload(judged[0]["texts"]),
        environment=environment(str(resolve_device(device)) if device == "auto" else device),
        valid=not problems,
        problems=problems,
        models=judged,
    )


def _require_one_tokenizer(described: Sequence[Artefact]) -> None:
    dense = described[0]
    for other in described[1:]:
        if other.tokenizer_digest != dense.tokenizer_digest:
            raise UsageError(
                f"{other.directory} has another tokenizer than {dense.directory}: perplexities per "
                "token of different tokenizers can't be compared"
            )


def _workload(texts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    told = [{k: t[k] for k in ("text", "sha256", "window", "protocol", "tokens")} for t in texts]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return {"texts": told, "digest": digest}
