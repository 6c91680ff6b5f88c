"""The schema that is shipped is the one that is checked, and JSON Schema agrees with it."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

import slimgpt_bench.results as results
from slimgpt_bench.results.checking import require_schema
from slimgpt_bench.results.schema.kinds import schema_text
from tests import result_samples as samples

jsonschema: Any = importlib.import_module("jsonschema")
SHIPPED = Path(results.__file__).parent / "schema-1.json"
DOCUMENTS: dict[str, dict[str, Any]] = {
    "latency": samples.latency(),
    "load": samples.load()[0],
    "compare": samples.compare(),
    "capacity": samples.capacity(),
    "quality": samples.judged(),
}


def test_the_shipped_schema_is_made_from_the_models():
    assert SHIPPED.read_text() == schema_text(), (
        "write it anew: python -c 'from pathlib import Path; "
        "from slimgpt_bench.results.schema.kinds import schema_text; "
        f'Path("{SHIPPED}").write_text(schema_text())\''
    )


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_json_schema_accepts_what_we_accept(kind):
    document = json.loads(json.dumps(DOCUMENTS[kind]))
    jsonschema.Draft202012Validator(json.loads(SHIPPED.read_text())).validate(document)
    require_schema(json.dumps(document))


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_every_key_of_the_envelope_is_asked_for(kind):
    for key in samples.capacity():
        if key not in DOCUMENTS[kind] or key == "kind":
            continue
        less = {k: v for k, v in DOCUMENTS[kind].items() if k != key}
        with pytest.raises(ValueError, match=rf"{key}: Field required"):
            require_schema(json.dumps(less))


def _first_quantity(document: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = (document.get("cells") or document["levels"])[0]["ttft_s"]
    found: dict[str, Any] = entry.get("dense", entry)
    return found


@pytest.mark.parametrize("kind", ["latency", "load", "compare"])
@pytest.mark.parametrize(
    "change",
    [{"median": "1.0"}, {"n": 1.5}, {"n": -1}, {"interval": [2, 1]}, {"p99": None}, {"n": 0}],
    ids=str,
)
def test_a_quantity_is_checked_wherever_it_stands(kind, change):
    document = copy.deepcopy(DOCUMENTS[kind])
    _first_quantity(document).update(change)
    with pytest.raises(ValueError, match="ttft_s"):
        require_schema(json.dumps(document))


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_keys_may_be_added_everywhere(kind):
    document = copy.deepcopy(DOCUMENTS[kind])
    document["environment"]["more"] = document["more"] = {"a": [1]}
    require_schema(json.dumps(document))
