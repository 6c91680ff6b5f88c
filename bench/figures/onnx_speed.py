"""Prefill and decode on ONNX Runtime beside torch: one sequence, interleaved, by threads.

    python bench/figures/onnx_speed.py --work /tmp/figures --out /tmp/figures/onnx
    python bench/figures/onnx_speed.py --device cuda --work ... --out ...    # fp16 and bf16

The embedded model, and a random one of 40 M parameters; each dense and pruned by 25 % and 50 %.
Each thread count has a process of its own. A repetition runs all variants in turn, each a prompt
and then its decode steps; ratios are of the same repetition, so that load on the machine cancels.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import statistics
import time
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import click
import onnx

from slimgpt.calibration import Calibration
from slimgpt.checkpoint.reader import read_config
from slimgpt.demo import MODEL
from slimgpt.planning import Constraints, make_plan
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.decoders import Decoder, Length, OnnxDecoder, TorchDecoder
from slimgpt_bench.random_model import make_random_model
from slimgpt_export.onnx.build import GRAPH
from slimgpt_export.onnx.job import export_onnx
from slimgpt_export.onnx.options import OnnxOptions
from slimgpt_export.onnx.precision import Precision
from slimgpt_export.onnx.weights import EMBEDDING

LENGTHS = {"embedded": Length(prompt=224, steps=32), "random": Length(prompt=256, steps=32)}
"""The embedded model has a context of 256 tokens."""
RANDOM = ModelShape(768, 64, 8192, (LayerShape(12, 4, 896),) * 8)
RATIOS = {"dense": 0.0, "p25": 0.25, "p50": 0.5}
CPU_PRECISIONS: dict[str, Precision] = {x: Precision(x) for x in ("fp32", "int8", "int4")}
GPU_PRECISIONS = {
    "fp16": Precision("fp16", "float16"),
    "bf16": Precision("bf16", "bfloat16"),
    "int4": Precision("int4", "float16"),
}
_SIZES = {1: 4, 2: 1, 7: 8, 10: 2, 16: 2}
"""Bytes of a value, by onnx.TensorProto.DataType."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What is timed.

    Attributes:
        model: dense, p25 or p50.
        engine: torch eager, torch compiled, portable, or the precision of our graph.
        path: a checkpoint or an export.
    """

    model: str
    engine: str
    path: Path


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For the models.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="For the results.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", default="1,2", show_default=True, help="Of torch and ONNX Runtime.")
@click.option("--repeat", default=9, show_default=True, help="Repetitions; the first is dropped.")
@click.option("--models", default="embedded,random", show_default=True)
def main(work: Path, out: Path, device: str, threads: str, repeat: int, models: str) -> None:
    """Measure, and write onnx_speed.json and onnx_speed.md to OUT."""
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for name in models.split(","):
        variants = prepare(name, work, device)
        for count in map(int, threads.split(",")):
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                rows = pool.apply(time_all, (variants, LENGTHS[name], device, count, repeat))
            found.append({"model": name, "threads": count, "device": device, "rows": rows})
            (out / "onnx_speed.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            click.echo(table(name, count, rows))
    (out / "onnx_speed.md").write_text(
        "\n".join(table(x["model"], x["threads"], x["rows"]) for x in found), "utf-8"
    )


def prepare(name: str, work: Path, device: str) -> list[Variant]:
    """Checkpoints and exports, each made once."""
    variants = []
    precisions = CPU_PRECISIONS if device == "cpu" else GPU_PRECISIONS
    for model, ratio in RATIOS.items():
        checkpoint = work / f"{name}-{model}"
        if not checkpoint.exists():
            _make(name, ratio, checkpoint)
        engines = ["torch eager", *(["torch compiled", "portable"] if model == "dense" else [])]
        variants += [Variant(model, engine, checkpoint) for engine in engines]
        for engine, precision in precisions.items():
            variants.append(Variant(model, engine, _export(checkpoint, engine, precision, device)))
    portable = _export(work / f"{name}-dense", "portable", _plain(device), device, portable=True)
    return [Variant(v.model, v.engine, portable) if v.engine == "portable" else v for v in variants]


def _plain(device: str) -> Precision:
    return CPU_PRECISIONS["fp32"] if device == "cpu" else GPU_PRECISIONS["fp16"]


def _make(name: str, ratio: float, path: Path) -> None:
    if name == "random":
        target = make_plan(RANDOM, ratio, constraints=Constraints(align=32)).target
        make_random_model(path, RANDOM, target, context=1024, seed=0, device="cpu")
    elif ratio == 0:
        path.symlink_to(MODEL)
    else:
        _prune(path, ratio)


def _prune(path: Path, ratio: float) -> None:
    import torch

    windows = torch.randint(4096, (32, 64), generator=torch.Generator().manual_seed(0))
    options = PruneOptions(ratio, constraints=Constraints(align=32), device="cpu")
    prune(MODEL, path, options, lambda _: Calibration(windows, ("random",), 0))


def _export(
    checkpoint: Path, name: str, precision: Precision, device: str, *, portable: bool = False
) -> Path:
    export = checkpoint.with_name(f"{checkpoint.name}-{name}-onnx")
    if not export.exists():
        options = OnnxOptions(precision, portable=portable, device=device)
        export_onnx(checkpoint, export, options)
    return export


def time_all(
    variants: list[Variant], length: Length, device: str, threads: int, repeat: int
) -> list[dict[str, Any]]:
    """Seconds of every variant: repetition by repetition, in an order that is drawn each time."""
    import torch

    torch.set_num_threads(threads)
    decoders = [(v, _decoder(v, device, threads)) for v in variants]
    for _, decoder in decoders:
        decoder.prepare(length, batch=1)
    tokens = [7 + i % 90 for i in range(length.all)]
    timed: dict[Variant, list[tuple[float, float]]] = {v: [] for v in variants}
    order = random.Random(0)  # noqa: S311, RUF100
    for _ in range(repeat):
        for variant, decoder in order.sample(decoders, len(decoders)):
            timed[variant].append(_time(decoder, tokens, length))
    return [
        {
            **{k: str(v) for k, v in asdict(variant).items()},
            "bytes_a_token": _bytes_read(variant, device),
            "prefill_s": [x for x, _ in seconds[1:]],
            "step_s": [x for _, x in seconds[1:]],
        }
        for variant, seconds in timed.items()
    ]


def _decoder(variant: Variant, device: str, threads: int) -> Decoder:
    if variant.engine.startswith("torch"):
        return TorchDecoder(
            variant.path,
            device=device,
            dtype="float32" if device == "cpu" else "float16",
            compiled=variant.engine == "torch compiled",
        )
    return OnnxDecoder(variant.path, device=device, threads=threads)


def _time(decoder: Decoder, tokens: list[int], length: Length) -> tuple[float, float]:
    """Seconds of the prompt, and of a decode step on average."""
    decoder.begin()
    start = time.perf_counter()
    decoder.prefill([tokens[: length.prompt]])
    decoder.wait()
    middle = time.perf_counter()
    for token in tokens[length.prompt :]:
        decoder.step([token])
        decoder.wait()
    return middle - start, (time.perf_counter() - middle) / length.steps


def _bytes_read(variant: Variant, device: str) -> int:
    """Weight bytes that a decode step reads: all but the rows of an embedding table of its own."""
    shape = read_config(variant.path).shape
    if (variant.path / GRAPH).exists() and variant.engine != "portable":
        graph = onnx.load(variant.path / GRAPH, load_external_data=False).graph
        unread = ("rope", *(() if shape.tied_embeddings else (EMBEDDING,)))
        read = [x for x in graph.initializer if not x.name.startswith(unread)]
        return sum(prod(x.dims) * _SIZES[x.data_type] for x in read)
    table = 0 if shape.tied_embeddings else shape.vocab_size * shape.hidden_size
    return (shape.parameters - table) * (4 if device == "cpu" else 2)


def table(name: str, threads: int, rows: list[dict[str, Any]]) -> str:
    """Markdown: medians, the range, and the ratio to torch eager of the same model."""
    length = LENGTHS[name]
    lines = [
        f"\n{name}, {threads} thread(s), prompt {length.prompt}, {length.steps} steps\n",
        "| model | engine | prefill ms | decode ms a token | times torch eager (range) |",
        "|---|---|---:|---:|---:|",
    ]
    eager = {r["model"]: r for r in rows if r["engine"] == "torch eager"}
    for row in rows:
        ratios = _ratios(eager[row["model"]]["step_s"], row["step_s"])
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(
            f"| {row['model']} | {row['engine']} | {_ms(row['prefill_s'])} | "
            f"{_ms(row['step_s'])} | {spread} |"
        )
    dense = {r["engine"]: r for r in rows if r["model"] == "dense"}
    for row in rows:
        if row["model"] != "dense" and row["engine"] in dense:
            base = dense[row["engine"]]
            ratio = statistics.median(_ratios(row["step_s"], base["step_s"]))
            size = row["bytes_a_token"] / base["bytes_a_token"]
            lines.append(
                f"\n{row['model']} / dense, {row['engine']}: decode time {ratio:.3f}, weight bytes "
                f"{size:.3f}, quotient {ratio / size:.2f}"
            )
    return "\n".join(lines) + "\n"


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _ms(seconds: list[float]) -> str:
    values = [1000 * s for s in seconds]
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
