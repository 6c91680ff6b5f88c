"""What a benchmark says of the model that it measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import slimgpt.demo
from slimgpt.checkpoint.digest import file_sha256
from slimgpt.cli import run
from slimgpt.errors import IntegrityError
from slimgpt_bench.artefact import describe

MODEL = Path(slimgpt.demo.__file__).parent / "model"


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artefact") / "half"
    asked = ["prune", str(MODEL), str(out), "--ratio", "0.5", "--samples", "4", "--quiet"]
    assert run([*asked, "--calibration", "self"]) == 0
    return out


def test_a_pruned_checkpoint_tells_its_widths_and_the_dense_ones(pruned: Path):
    found = describe(pruned)
    assert found.form == "checkpoint"
    assert found.dense_shape == describe(MODEL).shape
    assert found.shape.decoder_parameters < found.dense_shape.decoder_parameters
    assert found.digest == file_sha256(pruned / "slimgpt.json")
    assert found.quality["layers"]
    assert found.tokenizer_digest == describe(MODEL).tokenizer_digest
    assert found.kv_bytes_per_token == found.shape.kv_bytes_per_token(2)
    json.dumps(found.to_json(), allow_nan=False)


def test_an_export_tells_what_its_own_cache_takes(pruned: Path, tmp_path: Path):
    out = tmp_path / "int8"
    asked = ["export", "onnx", str(pruned), str(out), "--precision", "int8", "--quiet"]
    assert run(asked) == 0
    found = describe(out)
    assert (found.form, found.dtype, found.cache_dtype) == ("onnx", "int8", "float32")
    assert found.kv_bytes_per_token == describe(pruned).shape.kv_bytes_per_token(4)
    assert found.dense_shape == describe(MODEL).shape
    assert found.weight_bytes == sum(x.stat().st_size for x in out.glob("model.onnx*"))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1e999"])
def test_a_manifest_whose_quality_is_no_number_is_refused(tmp_path: Path, value: str):
    """Before hours of measuring, whose document could not hold it."""
    path = tmp_path / "spoiled"
    shutil.copytree(MODEL, path)
    (path / "slimgpt.json").write_text(f'{{"quality": {{"layers": [{value}]}}}}')
    with pytest.raises(IntegrityError, match="holds NaN or infinity under quality"):
        describe(path)


def test_a_dense_checkpoint_has_no_other_shape():
    found = describe(MODEL)
    assert found.dense_shape is None
    assert found.quality == {}
