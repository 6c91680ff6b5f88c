"""An ONNX export in a plan and on the page: its own arithmetic, and the checkpoint it is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import slimgpt.demo
from slimgpt.cli import run
from slimgpt_bench.artefact import describe
from slimgpt_bench.report.runs import gather
from tests.capacity_plans import write_slo, write_traffic

MODEL = Path(slimgpt.demo.__file__).parent / "model"
USAGE = 2
BOX = "schema: 1\nname: box\nplatform: cpu\nmemory_gib: 64\nterabytes_per_s: 0.02\n"
BOX += "teraflops: {float32: 0.1}\n"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pruned checkpoint, and its export."""
    root = tmp_path_factory.mktemp("exported")
    pruned, export = root / "half", root / "half-int8"
    asked = ["prune", str(MODEL), str(pruned), "--ratio", "0.5", "--samples", "4", "--quiet"]
    assert run([*asked, "--calibration", "self"]) == 0
    asked = ["export", "onnx", str(pruned), str(export), "--precision", "int8", "--quiet"]
    assert run(asked) == 0
    return pruned, export


class Planner:
    """The command, for one model."""

    def __init__(self, model: Path, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self._model, self._capture = model, capture
        traffic = write_traffic(root / "traffic.yaml", prompt_tokens=48, output_tokens=24)
        (root / "box.yaml").write_text(BOX)
        self._fixed = ["--traffic", str(traffic), "--slo", str(write_slo(root / "slo.yaml"))]
        self._fixed += ["--accelerator", str(root / "box.yaml"), "--json"]

    def __call__(self, *options: str) -> tuple[int, str, str]:
        code = run(["capacity", str(self._model), *self._fixed, *options])
        return code, *self._capture.readouterr()


@pytest.fixture
def plan(
    exported: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Planner:
    capsys.readouterr()
    return Planner(exported[1], tmp_path, capsys)


def test_an_export_has_slots_that_are_allocated_and_files_that_were_measured(
    exported: tuple[Path, Path], plan: Planner
) -> None:
    code, stdout, _ = plan()
    assert code == 0
    replica: dict[str, Any] = json.loads(stdout)["replica"]
    told, slots = describe(exported[1]), 4
    assert told.context_length is not None
    assert replica["kv_tokens"]["value"] == slots * told.context_length
    assert replica["kv_bytes"]["value"] == slots * told.context_length * told.kv_bytes_per_token
    assert replica["kv_bytes"]["source"] == "4 slots of 256 tokens, allocated when it starts"
    assert replica["weight_bytes"]["value"] == told.weight_bytes
    assert replica["weight_bytes"]["label"] == "measured"
    assert replica["max_sequences"]["value"] == slots


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--tensor-parallel", "2"), "half-int8 is an ONNX export, which runs on one device"),
        (("--dtype", "bfloat16"), "half-int8 is an ONNX export in float32: leave it out"),
    ],
)
def test_what_an_export_can_not_do_is_refused(
    plan: Planner, options: tuple[str, ...], told: str
) -> None:
    code, stdout, stderr = plan(*options)
    assert (code, stdout) == (USAGE, "")
    assert told in stderr


def test_its_alerts_name_the_metrics_of_its_own_server(plan: Planner, tmp_path: Path) -> None:
    assert plan("--write", str(tmp_path / "ops"))[0] == 0
    text = (tmp_path / "ops/alerts.yaml").read_text()
    assert "slimgpt_time_to_first_token_seconds_bucket" in text
    assert "vllm:" not in text
    assert "CacheFull" not in text  # slots have their own room


def test_the_page_knows_which_checkpoint_an_export_is_of(exported: tuple[Path, Path]) -> None:
    pages = gather(exported)
    checkpoint, export = pages.models
    assert export.origin == checkpoint.digest == describe(exported[0]).digest
    assert checkpoint.origin is None
    assert gather(exported[1:]).models[0].origin is None
