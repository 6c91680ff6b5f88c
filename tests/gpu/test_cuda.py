"""Pruning on a GPU against pruning on the CPU. Skipped where torch sees none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slimgpt import obs
from slimgpt.calibration import Calibration, load_calibration
from slimgpt.checkpoint.reader import Checkpoint, read_config
from slimgpt.demo import CALIBRATION, EVALUATION, MODEL
from slimgpt.evaluate.perplexity import measure
from slimgpt.evaluate.windows import load_text
from slimgpt.loading import load_model
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions

pytestmark = pytest.mark.gpu


def calibrate(checkpoint: Checkpoint) -> Calibration:
    return load_calibration(checkpoint, [str(CALIBRATION)], samples=64, sequence_length=256, seed=0)


def pruned(folder: Path, device: str, dtype: str = "float32") -> Path:
    out = folder / f"{device}-{dtype}"
    prune(MODEL, out, PruneOptions(0.25, device=device, dtype=dtype), calibrate)
    return out


def test_maths_on_the_gpu_is_the_maths_on_the_cpu():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(64, 400, generator=generator, dtype=torch.float64)
    W = torch.randn(32, 64, generator=generator, dtype=torch.float64)
    results = []
    for device in ("cpu", "cuda"):
        H, units = (X @ X.T).to(device), torch.arange(64, device=device)[:, None]

        def left(gone: list[int], device: str = device) -> torch.Tensor:
            mask = torch.ones(64, dtype=torch.bool, device=device)
            mask[gone] = False
            return mask

        results.append(obs.remove_exact(W.to(device), H, 0.1, units, [4] * 4, left))
    assert results[0].units == results[1].units
    torch.testing.assert_close(results[0].weight, results[1].weight.cpu(), rtol=1e-9, atol=1e-9)


def test_pruning_on_the_gpu_costs_what_it_costs_on_the_cpu(tmp_path):
    dense, text = load_model(MODEL, device="cpu")[0], load_text(read_config(MODEL), EVALUATION, 128)
    kl = {}
    for device, dtype in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        out = pruned(tmp_path, device, dtype)
        kl[device, dtype] = measure(load_model(out, device="cpu")[0], text, dense).kl
    assert kl["cuda", "float32"] == pytest.approx(kl["cpu", "float32"], rel=0.05)
    assert kl["cuda", "bfloat16"] == pytest.approx(kl["cpu", "float32"], rel=0.15)


def test_logits_on_the_gpu_are_those_on_the_cpu(tmp_path):
    out = pruned(tmp_path, "cuda")
    ids = torch.arange(1, 65)[None]
    cpu = load_model(out, device="cpu")[0](ids).logits
    gpu = load_model(out, device="cuda", dtype="float32")[0](ids.cuda()).logits.cpu()
    torch.testing.assert_close(gpu, cpu, rtol=1e-3, atol=1e-3)


def test_equal_runs_on_one_gpu_give_equal_bytes(tmp_path):
    first, second = pruned(tmp_path / "a", "cuda"), pruned(tmp_path / "b", "cuda")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
