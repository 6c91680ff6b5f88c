"""Peak memory of pruning LLaMA-7B-shaped models of several depths: it must not depend on depth.

    .venv/bin/python bench/figures/memory_by_depth.py --layers 4 --layers 8

Weights are random; every run is `slimgpt prune --json` in a process of its own, which reports its
own high-water mark.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import torch

from slimgpt.checkpoint.writer import assemble, write_durably, write_json
from slimgpt.resources import human_bytes
from slimgpt.shape import LayerShape, ModelShape

LAYER = LayerShape(query_heads=32, kv_heads=32, ffn=11008)


@click.command()
@click.option("--layers", "depths", type=int, multiple=True, default=(4, 8))
@click.option("--samples", type=int, default=16, show_default=True)
@click.option("--tokens", type=int, default=512, show_default=True)
@click.option("--ratio", type=float, default=0.25, show_default=True)
def main(depths: tuple[int, ...], samples: int, tokens: int, ratio: float) -> None:
    """Print one line a depth."""
    for depth in depths:
        with tempfile.TemporaryDirectory() as folder:
            model, text = Path(folder) / "model", Path(folder) / "ids.jsonl"
            make_model(model, depth)
            make_rows(text, samples, tokens)
            arguments = [str(model), str(Path(folder) / "out"), "--ratio", str(ratio)]
            arguments += ["--calibration", str(text), "--samples", str(samples)]
            arguments += ["--sequence-length", str(tokens), "--json"]
            command = [sys.executable, "-m", "slimgpt", "prune", *arguments]
            result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            size = sum(p.stat().st_size for p in model.glob("*.safetensors"))
            click.echo(
                f"{depth} layers, {human_bytes(size)} of weights: peak RSS "
                f"{human_bytes(result['peak_rss_bytes'])}, {result['seconds']:.0f} s"
            )


def make_model(directory: Path, depth: int) -> None:
    """A sharded bfloat16 checkpoint with random weights, one layer in memory at a time."""
    directory.mkdir()
    shape = ModelShape(4096, 128, 32000, (LAYER,) * depth)
    generator = torch.Generator().manual_seed(0)
    blocks = []
    named = [("outer", shape.outer_tensors())]
    for i in range(depth):
        tensors = {f"model.layers.{i}.{n}": s for n, s in shape.layer_tensors(LAYER).items()}
        named.append((f"layer{i}", tensors))
    for name, sizes in named:
        blocks.append(directory / f"{name}.block")
        write_durably(blocks[-1], {n: _random(s, generator) for n, s in sizes.items()}, {})
    assemble(blocks, directory)
    for block in blocks:
        block.unlink()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": LAYER.ffn,
        "num_attention_heads": LAYER.query_heads,
        "num_hidden_layers": depth,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "dtype": "bfloat16",
    }
    write_json(directory / "config.json", config)


def _random(size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    scaled: torch.Tensor = torch.randn(size, generator=generator) * size[1] ** -0.5
    return scaled.to(torch.bfloat16)


def make_rows(path: Path, samples: int, tokens: int) -> None:
    """Random token ids, so that no tokenizer is needed."""
    ids = torch.randint(32000, (samples, tokens), generator=torch.Generator().manual_seed(1))
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids.tolist()))


if __name__ == "__main__":
    main()
