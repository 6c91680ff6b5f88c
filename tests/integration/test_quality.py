"""What pruning does to the embedded model, end to end: numbers that must come out right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt.calibration import Calibration, load_calibration
from slimgpt.checkpoint.reader import Checkpoint, read_config
from slimgpt.checkpoint.writer import assemble, write_durably, write_json
from slimgpt.demo import CALIBRATION, EVALUATION, MODEL
from slimgpt.evaluate.perplexity import measure
from slimgpt.evaluate.windows import load_text
from slimgpt.loading import load_model
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.shape import LayerShape, ModelShape


def calibrate(checkpoint: Checkpoint) -> Calibration:
    return load_calibration(checkpoint, [str(CALIBRATION)], samples=64, sequence_length=256, seed=0)


@pytest.fixture(scope="module")
def dense() -> Any:
    return load_model(MODEL, device="cpu")[0]


@pytest.fixture(scope="module")
def divergence(tmp_path_factory: pytest.TempPathFactory, dense: Any) -> dict[str, float]:
    """KL to dense on the model's own samples, by method, at the same shapes."""
    folder = tmp_path_factory.mktemp("methods")
    text = load_text(read_config(MODEL), EVALUATION, 128)
    kl = {}
    for method in ("exact", "slimgpt"):
        out = folder / method
        prune(MODEL, out, PruneOptions(0.25, method=method, device="cpu"), calibrate)
        kl[method] = measure(load_model(out, device="cpu")[0], text, dense).kl or 0.0
    assert read_config(folder / "exact").shape == read_config(folder / "slimgpt").shape
    return kl


def test_both_methods_stay_close_to_dense_and_the_default_closer(divergence):
    """A quarter of the decoder gone costs under 0.1 nats a token; dropping it blindly costs 1."""
    assert 0 < divergence["exact"] < divergence["slimgpt"] < 0.1


def test_compensation_pays_in_every_sub_block(tmp_path):
    prune(MODEL, tmp_path / "out", PruneOptions(0.25, device="cpu"), calibrate)
    manifest = json.loads((tmp_path / "out" / "slimgpt.json").read_text())
    steps = [step for layer in manifest["quality"]["layers"] for step in layer.values()]
    assert len(steps) == 11  # every sub-block but the attention of layer 0
    assert all(step["compensated"] < 0.7 * step["truncated"] for step in steps)


def test_dense_perplexity_is_the_published_one(shared, dense):
    """65.8 at 128 tokens, from the README of the reference model."""
    text = load_text(read_config(MODEL), shared / "data" / "gutenberg" / "valid.txt", 128)
    assert measure(dense, text).perplexity == pytest.approx(65.82, abs=0.01)


def make_model(directory: Path, depth: int) -> None:
    """A random checkpoint whose layers weigh 13.6 MB in float32 each."""
    directory.mkdir()
    layer = LayerShape(16, 16, 1536)
    shape = ModelShape(512, 32, 256, (layer,) * depth)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"model.layers.{i}.{name}": torch.randn(size, generator=generator) * 0.05
        for i in range(depth)
        for name, size in shape.layer_tensors(layer).items()
    }
    outer = {n: torch.randn(s, generator=generator) for n, s in shape.outer_tensors().items()}
    block = directory / "all.block"
    write_durably(block, tensors | outer, {})
    assemble([block], directory)
    block.unlink()
    config: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    config |= {"dtype": "float32"}
    config |= {"hidden_size": 512, "intermediate_size": 1536, "vocab_size": 256}
    config |= {"num_attention_heads": 16, "num_hidden_layers": depth}
    write_json(directory / "config.json", config)


def peak_of_pruning(folder: Path, depth: int) -> int:
    """High-water mark in bytes of a `slimgpt prune` in a process of its own."""
    make_model(folder / f"model{depth}", depth)
    rows = folder / "rows.jsonl"
    ids = torch.randint(256, (8, 64), generator=torch.Generator().manual_seed(0)).tolist()
    rows.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))
    arguments = ["prune", str(folder / f"model{depth}"), str(folder / f"out{depth}")]
    arguments += ["--ratio", "0.2", "--calibration", str(rows), "--samples", "8"]
    arguments += ["--sequence-length", "64", "--device", "cpu", "--json", "--quiet"]
    # Shards are gathered one at a time; small ones keep them out of the comparison.
    code = "import sys; from slimgpt import cli; from slimgpt.checkpoint import writer; "
    code += "writer.SHARD_BYTES = 2**24; sys.exit(cli.run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout)["peak_rss_bytes"])


def test_memory_does_not_grow_with_depth(tmp_path):
    """Ten more layers weigh 136 MB; the process that prunes them does not."""
    shallow, deep = peak_of_pruning(tmp_path, 2), peak_of_pruning(tmp_path, 12)
    assert deep - shallow < 30e6
