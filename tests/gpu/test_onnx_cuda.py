"""ONNX exports on CUDA: needs a GPU and the extra [onnx-gpu] in place of [onnx]."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from slimgpt.demo import MODEL
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt_export.onnx.job import export_onnx
from slimgpt_export.onnx.options import make_options
from slimgpt_serve.onnx_runtime.artefact import read_artefact
from slimgpt_serve.onnx_runtime.runner import Runner
from slimgpt_serve.onnx_runtime.session import open_session
from tests.onnx_exports import cached_logits
from tests.tiny_models import CALIBRATION

pytestmark = pytest.mark.gpu
PRECISIONS = {
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "int8": {"precision": "int8", "activations": "float16", "keep": "none"},
    "int4": {"precision": "int4", "activations": "float16", "keep": "none"},
}


@pytest.fixture(scope="module", autouse=True)
def _needs_the_gpu_package() -> None:
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        pytest.skip("needs slimgpt[onnx-gpu] in place of [onnx]")


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("halved") / "out"
    prune(MODEL, out, PruneOptions(0.5, device="cpu", activations="memory"), lambda _: CALIBRATION)
    return out


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("source", ["dense", "halved"])
def test_the_graph_is_torchs_function_on_cuda(
    source: str, precision: str, halved: Path, tmp_path: Path, record_property
) -> None:
    path = halved if source == "halved" else MODEL
    options = make_options(**PRECISIONS[precision], device="cuda")  # type: ignore[arg-type]
    result = export_onnx(path, tmp_path / "out", options)
    parity = result.measured["parity"]
    assert parity["provider"] == "CUDAExecutionProvider"
    assert parity["computed_in"] == result.precision.activations
    largest = max(parity["prefill"]["largest"], parity["decode"]["largest"])
    record_property("measured", f"largest {largest:.1e} sd on CUDA")


def test_float32_is_refused_on_cuda(tmp_path: Path) -> None:
    from slimgpt.errors import UsageError

    export_onnx(MODEL, tmp_path / "out", make_options(precision="fp32", device="cpu"))
    with pytest.raises(UsageError, match="float32"):
        open_session(read_artefact(tmp_path / "out"), device="cuda")


def test_a_slot_that_moves_on_the_device_goes_on_as_it_was(tmp_path: Path) -> None:
    export_onnx(MODEL, tmp_path / "out", make_options(precision="fp16", device="cuda"))
    session = open_session(read_artefact(tmp_path / "out"), device="cuda")
    ids = torch.randint(3, 4096, (40,), generator=torch.Generator().manual_seed(0))
    alone = cached_logits(session, ids, 32)
    runner = Runner(session, 64, 3)
    runner.prefill(2, ids[:32].tolist())
    runner.move(2, 0, 32)
    moved = [torch.from_numpy(runner.decode([int(ids[i])], [i])[0]) for i in range(32, 40)]
    torch.testing.assert_close(torch.stack(moved), alone[1:], rtol=0, atol=1e-3)
