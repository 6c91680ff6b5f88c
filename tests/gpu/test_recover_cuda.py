"""Recovery on a GPU against recovery on the CPU. Skipped where torch sees none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from slimgpt.calibration import Calibration, load_calibration
from slimgpt.checkpoint.reader import MANIFEST, Checkpoint
from slimgpt.demo import CALIBRATION, MODEL
from slimgpt.progress import Progress
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.recover.driver import recover
from slimgpt.recover.options import RecoverOptions
from tests.recovering import StopAt, Stopped, digests

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
QUICK = RecoverOptions(
    batch_size=16,
    micro_batch=8,
    max_length=128,
    held_out=16,
    evaluations=3,
    max_steps=12,
    learning_rate=5e-3,
    warmup_steps=1,
    device=DEVICE,
)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without a third of its blocks: there is something to heal."""
    out = tmp_path_factory.mktemp("pruned") / "out"
    prune(MODEL, out, PruneOptions(0.33, device="cpu"), calibrate)
    return out


def calibrate(checkpoint: Checkpoint) -> Calibration:
    return load_calibration(checkpoint, [str(CALIBRATION)], samples=32, sequence_length=128, seed=0)


def losses(
    out: Path, model: Path, progress: Progress | None = None, **options: Any
) -> tuple[float, float]:
    """Held-out loss before and after a recovery on the dense model's own text."""
    settings = replace(QUICK, **options)
    dense = MODEL if settings.distill_weight else None
    result = recover(model, out, [str(CALIBRATION)], settings, dense=dense, progress=progress)
    loss = result.quality["held_out_loss"]
    return loss["before"], loss["after"]


def stored_as(dtype: torch.dtype, model: Path, path: Path) -> Path:
    """A checkpoint in another type, and without a manifest."""
    shutil.copytree(model, path, ignore=shutil.ignore_patterns(MANIFEST))
    AutoModelForCausalLM.from_pretrained(model, dtype=dtype).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("dtype", "before", "after"), [("float32", 1e-4, 0.05), ("bfloat16", 0.01, 0.05)]
)
def test_recovery_on_the_gpu_gains_what_it_gains_on_the_cpu(pruned, tmp_path, dtype, before, after):
    """Dropout is drawn differently, so that the gain is only about the same."""
    cpu = losses(tmp_path / "cpu", pruned, device="cpu")
    gpu = losses(tmp_path / "gpu", pruned, dtype=dtype)
    assert gpu[0] == pytest.approx(cpu[0], rel=before)
    assert gpu[1] == pytest.approx(cpu[1], rel=after)
    assert gpu[1] < gpu[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_any_stored_type_is_trained(pruned, tmp_path, dtype):
    """float16 in bfloat16, whose range gradients need."""
    model = stored_as(dtype, pruned, tmp_path / "model")
    before, after = losses(tmp_path / "out", model)
    assert after < before
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert stored.dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True, "distill_weight": 0.5}])
def test_equal_runs_on_one_gpu_give_equal_bytes(pruned, tmp_path, dtype, more):
    losses(tmp_path / "a", pruned, dtype=dtype, **more)
    torch.manual_seed(1)
    losses(tmp_path / "b", pruned, dtype=dtype, **more)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_stopped_run_ends_with_the_bytes_of_an_undisturbed_one(pruned, tmp_path):
    losses(tmp_path / "undisturbed", pruned)
    for step in (4, 8, 12):
        with pytest.raises(Stopped):
            losses(tmp_path / "stopped", pruned, progress=StopAt(step))
    losses(tmp_path / "stopped", pruned)
    assert digests(tmp_path / "stopped") == digests(tmp_path / "undisturbed")


def test_nothing_is_left_on_the_gpu(pruned, tmp_path):
    losses(tmp_path / "first", pruned, distill_weight=0.5)
    held = torch.cuda.memory_allocated()
    losses(tmp_path / "second", pruned, distill_weight=0.5)
    assert torch.cuda.memory_allocated() == held < 64 * 2**20


def test_torch_is_left_as_it_was(pruned, tmp_path):
    losses(tmp_path / "out", pruned)
    assert not torch.are_deterministic_algorithms_enabled()
