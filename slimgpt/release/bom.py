"""A bill of materials of a checkpoint (ML-BOM): CycloneDX 1.6, as JSON.

cyclonedx-python-lib 11 has no model of ``modelCard``, so the document is made here, and the tests
hold it to that library's strict schema. It has no time stamp, and its serial number follows from
what it describes: equal checkpoints have equal bills.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid5

from slimgpt.calibration import HUB_SETS
from slimgpt.checkpoint.reader import BOM, read_config
from slimgpt.checkpoint.writer import write_text_durably
from slimgpt.release.card.markdown import plain
from slimgpt.release.card.metadata import TASK, data_sources, is_padded, model_name
from slimgpt.release.card.source_card import SourceCard, read_source_card
from slimgpt.release.verify.schema import Manifest, load_manifest, parse_manifest

_NAMESPACE = UUID("5b1d7cf0-6c1e-5c5e-9a53-2f6f0f1f2412")
_MODEL = "model"
_LINK = re.compile(r"https?://[\w.~:/?#@!$&'()*+,;=%-]+", re.ASCII)
_NO_PACKAGES = ("python", "machine", "device")
_DIGEST_IS = "SHA-256 over one line 'SHA-256, two spaces, name' for each file, ordered by name"


def write_bom(
    directory: Path, file: Path, manifest: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes the bill of a checkpoint and returns it.

    Args:
        directory: the checkpoint; of its files, config.json and the card's licence are read.
        file: to write, whole or not at all.
        manifest: with ``files``; None takes the slimgpt.json that is there.

    Raises:
        IntegrityError: the checkpoint has no manifest, or a damaged one.
    """
    if manifest is None:
        _, manifest = load_manifest(directory)
    config = read_config(directory, quantized=True).config
    document = bom(manifest, config, read_source_card(directory))
    write_text_durably(file, json.dumps(document, indent=2) + "\n")
    return document


def bom(
    manifest: Mapping[str, Any], config: Mapping[str, Any], carried: SourceCard
) -> dict[str, Any]:
    """The bill as a JSON document.

    Args:
        manifest: of the checkpoint; the bill itself, where it is among its files, is left out.
        config: of the checkpoint.
        carried: what its card says of the licence.

    Raises:
        IntegrityError: the manifest is damaged.
    """
    known = parse_manifest(manifest, "the manifest")
    files = {name: digest for name, digest in known.files.items() if name != BOM}
    content = json.dumps({**manifest, "files": files}, sort_keys=True)
    serial = uuid5(_NAMESPACE, content)
    packages = list(_packages(known.environment))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "tools": {"components": [_tool(known.slimgpt_version)]},
            "component": {
                **_model(known, manifest, config, carried),
                "components": [_file(name, digest) for name, digest in sorted(files.items())],
            },
        },
        "components": packages,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [package["bom-ref"] for package in packages]}
        ],
    }


def _model(
    known: Manifest, manifest: Mapping[str, Any], config: Mapping[str, Any], carried: SourceCard
) -> dict[str, Any]:
    counts = known.parameters
    licences = _licences(carried)
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": model_name(manifest),
        "description": f"{plain(known.source.name)} {_made(known)} by SlimGPT",
        **({"licenses": licences} if licences else {}),
        "pedigree": {"ancestors": [_ancestor(known, licences)]},
        "modelCard": {
            "modelParameters": {
                "task": TASK,
                "architectureFamily": "transformer",
                "modelArchitecture": plain(_architecture(config)),
                "datasets": list(_data_sets(known)),
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(known))},
            "considerations": {
                "performanceTradeoffs": [
                    f"{counts.before:,} parameters became {counts.after:,}: smaller, and further "
                    "from the dense model"
                ]
            },
        },
        "properties": [
            _property("parameters", counts.after),
            _property("method", plain(known.recipe.get("method"))),
            _property("ratio", plain(known.recipe.get("ratio"))),
            *(
                _property(f"environment:{key}", plain(known.environment[key]))
                for key in _NO_PACKAGES
                if key in known.environment
            ),
        ],
    }


def _made(known: Manifest) -> str:
    counts, recipe = known.parameters, known.recipe
    if is_padded(recipe):  # its counts hold the zeros
        done = "padded with zeros to a stock layout"
    elif counts.decoder_after == counts.decoder_before:
        done = "with none of its parameters removed"
    else:
        removed = 1 - counts.decoder_after / counts.decoder_before
        done = f"with {removed:.1%} of its decoder parameters removed"
    return f"{done} and its weights quantised" if recipe.get("quantization") else done


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures") or [config.get("model_type")]
    return str(named[0])


def _ancestor(known: Manifest, licences: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": "source",
        "name": plain(known.source.name),
        "hashes": [_sha256(known.source.digest)],
        **({"licenses": licences} if licences else {}),
        "properties": [_property("digest", _DIGEST_IS)],
    }


def _licences(carried: SourceCard) -> list[dict[str, Any]]:
    if carried.spdx:
        return [{"license": {"id": carried.spdx}}]
    if not carried.licence:
        return []
    link = carried.license_link or ""
    url = {"url": link} if _LINK.fullmatch(link) else {}
    return [{"license": {"name": carried.licence, **url}}]


def _data_sets(known: Manifest) -> Iterator[dict[str, Any]]:
    """What it was calibrated, recovered and measured on."""
    recovery = known.recipe.get("recovery")
    for name in data_sources(known.recipe.get("calibration")):
        yield _data_set(name, "calibration")
    for name in data_sources(recovery.get("data")) if isinstance(recovery, Mapping) else ():
        yield _data_set(name, "recovery")
    for text in known.quality.texts:
        yield _data_set(text.text, "evaluation", text.sha256)
    for name, task in known.quality.tasks.items():
        yield _data_set(name, "evaluation", task.sha256)


def _data_set(name: str, purpose: str, digest: str | None = None) -> dict[str, Any]:
    properties = [_property("purpose", purpose)]
    if digest:
        properties.append(_property("sha256", digest))
    contents: dict[str, Any] = {"properties": properties}
    if name in HUB_SETS and purpose != "evaluation":
        contents = {"url": f"https://hf.co/datasets/{HUB_SETS[name].repository}", **contents}
    return {"type": "dataset", "name": plain(name), "contents": contents}


def _metrics(known: Manifest) -> Iterator[dict[str, Any]]:
    for text in known.quality.texts:
        protocol = f"{text.protocol} protocol, windows of {text.window} tokens"
        slice_ = f"{plain(text.text)}, {protocol}"
        yield from _metric("perplexity", text.perplexity, slice_)
        yield from _metric("perplexity of the dense model", text.baseline_perplexity, slice_)
        yield from _metric("KL(dense || model), nats a token", text.kl, slice_)
    for name, task in known.quality.tasks.items():
        slice_ = f"{plain(name)}, {task.n} questions"
        yield from _metric("accuracy", task.acc, slice_)
        yield from _metric("length-normalised accuracy", task.acc_norm, slice_)
        for metric, measured in task.metrics.items():
            yield from _metric(plain(metric), measured.value, slice_)
    accuracy = known.quality.accuracy
    if accuracy:
        ratio = _metric("accuracy relative to the dense model", accuracy.ratio, "all tasks")
        bounds = zip(("lowerBound", "upperBound"), accuracy.interval or (), strict=False)
        interval = {name: f"{bound:.5g}" for name, bound in bounds}
        yield from (metric | {"confidenceInterval": interval} for metric in ratio)


def _metric(kind: str, value: float | None, slice_: str) -> Iterator[dict[str, Any]]:
    if value is not None:
        yield {"type": kind, "value": f"{value:.5g}", "slice": slice_}


def _packages(environment: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name, version in sorted(environment.items()):
        if name not in _NO_PACKAGES:
            yield _software(name, version, f"package:{plain(name)}")


def _tool(version: str) -> dict[str, Any]:
    return _software("slimgpt", version, "tool") | {"type": "application"}


def _software(name: str, version: str, reference: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": reference,
        "name": plain(name),
        "version": plain(version),
        "purl": f"pkg:pypi/{quote(plain(name).lower(), safe='')}@{quote(plain(version), safe='')}",
    }


def _file(name: str, digest: str) -> dict[str, Any]:
    return {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_sha256(digest)]}


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _property(name: str, value: object) -> dict[str, str]:
    return {"name": f"slimgpt:{name}", "value": str(value)}
