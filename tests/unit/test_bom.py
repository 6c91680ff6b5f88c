"""The bill of materials: valid by CycloneDX's strict schema, and the same for the same model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.reader import BOM, read_config
from slimgpt.demo import MODEL
from slimgpt.errors import IntegrityError
from slimgpt.release.bom import bom, write_bom
from slimgpt.release.card.markdown import plain
from slimgpt.release.card.source_card import SourceCard
from slimgpt.release.manifest import describe, seal
from tests.release_facts import GATES, HOSTILE, QUALITY, RECIPE, RECOVERY

COUNTS = {"before": 1000, "after": 800, "decoder_before": 600, "decoder_after": 400}
CONFIG = {"architectures": ["SlimLlamaForCausalLM"], "model_type": "slim_llama"}
FILES = {"config.json": "4" * 64, "model.safetensors": "5" * 64}
MIT = SourceCard("mit")


def manifest(**changes: Any) -> dict[str, Any]:
    document = describe(
        source={"name": "org/dense", "digest": "3" * 64},
        recipe=RECIPE | {"recovery": RECOVERY},
        shape=read_config(MODEL).shape,
        counts=COUNTS,
        quality=copy.deepcopy(QUALITY),
        device="cpu",
        gates=GATES,
    )
    return document | {"files": dict(FILES)} | changes


def require_valid(document: Any) -> None:
    """By the schema itself, formats included."""
    schema = pytest.importorskip("cyclonedx.schema")
    validation = pytest.importorskip("cyclonedx.validation.json")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(document)) is None


def test_a_full_bill_is_valid() -> None:
    require_valid(bom(manifest(), CONFIG, MIT))


def test_a_bill_of_what_was_only_pruned_is_valid() -> None:
    document = bom(manifest(recipe=RECIPE, quality={}, gates=[]), CONFIG, SourceCard())
    require_valid(document)
    card = document["metadata"]["component"]["modelCard"]
    assert card["quantitativeAnalysis"] == {"performanceMetrics": []}
    assert "licenses" not in document["metadata"]["component"]


@pytest.mark.parametrize(
    ("recipe", "after", "says"),
    [
        ({}, 400, "with 33.3% of its decoder parameters removed by SlimGPT"),
        ({}, 600, "with none of its parameters removed by SlimGPT"),
        (
            {"export": {"padded": True}},
            500,
            "padded with zeros to a stock layout by SlimGPT",
        ),
        (
            {"quantization": {"scheme": "fp8"}},
            600,
            "with none of its parameters removed and its weights quantised by SlimGPT",
        ),
    ],
)
def test_the_description_says_what_was_done(recipe: Any, after: int, says: str) -> None:
    counts = COUNTS | {"decoder_after": after}
    document = bom(manifest(recipe=RECIPE | recipe, parameters=counts), CONFIG, MIT)
    component = document["metadata"]["component"]
    assert component["description"] == f"org/dense {says}"


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_names_of_strangers_leave_it_valid(value: str) -> None:
    quality = copy.deepcopy(QUALITY)
    quality["texts"][0]["text"] = plain(value) or "x"  # a manifest has no other
    quality["tasks"] = {value: quality["tasks"]["boolq"]}
    recipe = RECIPE | {"calibration": RECIPE["calibration"] | {"sources": [value]}, "method": value}
    document = bom(
        manifest(
            source={"name": value, "digest": "3" * 64},
            quality=quality,
            recipe=recipe,
            environment={"torch": value, value: "1"},
            files={value: "1" * 64, "b": "2" * 64},
        ),
        {"architectures": [value]},
        SourceCard("other", value, value),
    )
    require_valid(document)


def test_it_says_what_the_manifest_says() -> None:
    document = bom(manifest(), CONFIG, MIT)
    component = document["metadata"]["component"]
    assert component["name"] == "dense-slimgpt"
    assert component["licenses"] == [{"license": {"id": "MIT"}}]
    (source,) = component["pedigree"]["ancestors"]
    assert (source["name"], source["hashes"]) == (
        "org/dense",
        [{"alg": "SHA-256", "content": "3" * 64}],
    )
    assert {c["name"]: c["hashes"][0]["content"] for c in component["components"]} == FILES
    parameters = component["modelCard"]["modelParameters"]
    assert parameters["modelArchitecture"] == "SlimLlamaForCausalLM"
    assert [d["name"] for d in parameters["datasets"]] == [
        *("c4", "mine.txt", "alpaca", "own.json"),
        *("test.txt", "boolq"),
    ]
    assert parameters["datasets"][0]["contents"]["url"] == "https://hf.co/datasets/allenai/c4"
    assert "url" not in parameters["datasets"][1]["contents"], "a file of the user's is no hub set"
    metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert [(m["type"], m["value"]) for m in metrics] == [
        ("perplexity", "15.5"),
        ("perplexity of the dense model", "12.4"),
        ("KL(dense || model), nats a token", "0.21"),
        ("accuracy", "0.71"),
        ("length-normalised accuracy", "0.72"),
        ("accuracy relative to the dense model", "0.94667"),
    ]
    assert metrics[-1]["confidenceInterval"] == {"lowerBound": "0.927", "upperBound": "0.966"}
    packages = [c["name"] for c in document["components"]]
    assert packages == ["safetensors", "torch", "transformers"]
    assert document["dependencies"][0]["dependsOn"] == [f"package:{name}" for name in packages]
    (tool,) = document["metadata"]["tools"]["components"]
    assert (tool["type"], tool["name"]) == ("application", "slimgpt")


LICENCES: dict[str, tuple[SourceCard, list[dict[str, Any]]]] = {
    "of the list": (SourceCard("apache-2.0"), [{"license": {"id": "Apache-2.0"}}]),
    "of its own": (
        SourceCard("other", "llama2", "https://ai.meta.com/x"),
        [{"license": {"name": "llama2", "url": "https://ai.meta.com/x"}}],
    ),
    "a link that is none": (
        SourceCard("other", "x", "javascript:alert(1)"),
        [{"license": {"name": "x"}}],
    ),
    "a relative link": (SourceCard("other", "x", "LICENSE"), [{"license": {"name": "x"}}]),
    "ambiguous": (SourceCard("gpl-3.0"), [{"license": {"name": "gpl-3.0"}}]),
}


@pytest.mark.parametrize(("card", "expected"), LICENCES.values(), ids=LICENCES)
def test_licences(card: SourceCard, expected: list[dict[str, Any]]) -> None:
    document = bom(manifest(), CONFIG, card)
    require_valid(document)
    assert document["metadata"]["component"]["licenses"] == expected


def test_equal_models_have_equal_bills_and_others_another_number() -> None:
    one, two = (bom(manifest(), CONFIG, MIT) for _ in range(2))
    assert json.dumps(one) == json.dumps(two)
    assert "timestamp" not in json.dumps(one)
    other = bom(manifest(slimgpt_version="0.2"), CONFIG, MIT)
    assert other["serialNumber"] != one["serialNumber"]


def test_the_bill_itself_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((MODEL / "config.json").read_text())
    described = {key: value for key, value in manifest().items() if key != "files"}
    seal(tmp_path, described, bom=True)
    listed = json.loads((tmp_path / "slimgpt.json").read_text())["files"]
    assert list(listed) == [BOM, "config.json"]
    write_bom(tmp_path, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / BOM).read_bytes()
    require_valid(json.loads((tmp_path / BOM).read_text()))


def test_a_model_without_a_manifest_has_no_bill(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"has no manifest \(slimgpt.json\)"):
        write_bom(MODEL, tmp_path / "x.json")


@pytest.mark.parametrize(
    "changes", [{"files": {}}, {"source": None}, {"quality": None}, {"parameters": {"before": 1}}]
)
def test_a_damaged_manifest_has_no_bill(changes: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=f"malformed: {next(iter(changes))}"):
        bom(manifest(**changes), CONFIG, MIT)
