"""vLLM on LLaMA-7B-shaped models with random weights: dense, and pruned by 25 % and 50 %.

    python bench/figures/serving_on_gpu.py --work /tmp/figures --out /tmp/figures/results
    .venv-vllm/bin/python bench/figures/serving_on_gpu.py --rehearse --work ... --out ...

Steps run in order of what is needed most, and results are written after each. Stopped by its
budget or killed, the same command goes on with the steps that are missing. `--rehearse` does the
same on a CPU, small, without compiling: its numbers mean nothing.
"""

from __future__ import annotations

import statistics
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from slimgpt.errors import EnvironmentProblem
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.intervals import mean_interval
from slimgpt_bench.shape_bench import DENSE, PRUNED, Scale, ShapeBench, Step, steps

GPU = Scale(
    dense=ModelShape(4096, 128, 32000, (LayerShape(32, 32, 11008),) * 32),
    models=(DENSE, *PRUNED),
    device="cuda",
    context=4096,
    batches=(1, 8, 32),
    lengths=(512, 128),
    iterations=5,
    prompts=500,
    backends=("FLASH_ATTN", "FLASHINFER"),
    engine={"dtype": "bfloat16", "max_model_len": 4096, "gpu_memory_utilization": 0.9},
    environment={},
)
CPU = Scale(
    dense=ModelShape(256, 64, 12000, (LayerShape(4, 4, 688),) * 4),
    models=(DENSE, "p50"),
    device="cpu",
    context=512,
    batches=(1, 2),
    lengths=(32, 16),
    iterations=2,
    prompts=4,
    backends=(None,),
    engine={
        "dtype": "bfloat16",
        "max_model_len": 512,
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
    },
    # One process an engine: on a CPU most of a start is imports.
    environment={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For the models.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="For the results.")
@click.option("--budget", type=float, default=540, show_default=True, help="Seconds.")
@click.option("--repetitions", type=int, default=1, show_default=True)
@click.option("--rehearse", is_flag=True, help="On a CPU, at small scale.")
def main(work: Path, out: Path, budget: float, repetitions: int, rehearse: bool) -> None:
    """Measure, and write serving_on_gpu.json and serving_on_gpu.md to OUT."""
    deadline = time.monotonic() + budget
    if not any(x.name == "slimgpt" for x in entry_points(group="vllm.general_plugins")):
        raise EnvironmentProblem(
            "vLLM would not find the plugin here: pip install -e . --no-deps, with the Python that "
            "has vLLM"
        )
    scale = CPU if rehearse else GPU
    out.mkdir(parents=True, exist_ok=True)
    bench = ShapeBench(
        scale,
        work,
        out / "serving_on_gpu.json",
        deadline,
        lambda text: click.echo(text, err=True),
    )
    left = bench.run(list(steps(scale, repetitions)))
    table = "\n".join(rows(scale, bench.done, repetitions))
    (out / "serving_on_gpu.md").write_text(table + "\n", "utf-8")
    click.echo(table)
    if left:
        click.echo(f"left for another run: {', '.join(left)}", err=True)


def rows(scale: Scale, done: dict[str, Any], repetitions: int) -> list[str]:
    """A Markdown table: a line a quantity, a column a model."""
    columns = list(scale.models)
    probes = [done.get(Step("probe", m, scale.backends[0]).key, {}) for m in columns]

    def line(name: str, values: list[str]) -> str:
        return f"| {' | '.join([name, *values])} |"

    def fact(name: str, *path: str, form: str = "{:,}") -> str:
        return line(name, [_shown(x, path, form) for x in probes])

    out = [line("", columns), line("---", ["---:"] * len(columns))]
    out += [
        fact("parameters", "arithmetic", "parameters"),
        fact("weights, GiB (arithmetic)", "arithmetic", "weights_gib", form="{:.2f}"),
        fact("weights, GiB (vLLM)", "weights_gib", form="{}"),
        fact("KV tokens (arithmetic)", "arithmetic", "kv_tokens"),
        fact("KV tokens (vLLM)", "kv_tokens"),
        fact("engine start, s", "start_s", form="{:.1f}"),
    ]
    for i, batch in enumerate(scale.batches):
        out.append(line(f"decode, tokens/s, batch {batch}", [_decode(x, i) for x in probes]))
    for batch in scale.batches:
        cells = [
            _latency([done.get(Step("latency", m, batch, r).key) for r in range(repetitions)])
            for m in columns
        ]
        out.append(line(f"vllm bench latency, s, batch {batch}", cells))
    kept = [done.get(Step("throughput", m).key, {}) for m in columns]
    cells = [_shown(x, ("tokens_per_second",), "{:,.0f}") for x in kept]
    out.append(line("vllm bench throughput, tokens/s", cells))
    for name, kind, backend in _checks(scale):
        found = [done.get(Step(kind, m, backend).key, {}) for m in columns]
        out.append(line(f"greedy answers as first, {name}", [_same(x) for x in found]))
    return [*out, "", _protocol(scale, probes)]


def _checks(scale: Scale) -> list[tuple[str, str, str | None]]:
    first, *others = scale.backends
    return [("eager", "eager", first), *((str(x), "probe", x) for x in others)]


def _shown(found: dict[str, Any], path: tuple[str, ...], form: str) -> str:
    value: Any = found
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else form.format(value)


def _decode(found: dict[str, Any], index: int) -> str:
    return f"{found['decode'][index]['decode_tokens_per_s']:,.0f}" if "decode" in found else ""


def _latency(runs: list[dict[str, Any] | None]) -> str:
    """Median of all iterations, the interval of their mean, and their number."""
    seconds = [s for run in runs if run for s in run.get("latencies", [])]
    if not seconds:
        return ""
    interval = mean_interval(seconds)
    spread = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{statistics.median(seconds):.3f}{spread}, n = {len(seconds)}"


def _same(found: dict[str, Any]) -> str:
    same = found.get("same_as_first")
    return f"{same['identical']} + {same['ties']} ties of {same['prompts']}" if same else ""


def _protocol(scale: Scale, probes: list[dict[str, Any]]) -> str:
    about = next((x for x in probes if "vllm" in x), {})
    prompt, new = scale.lengths
    return (
        f"Random bfloat16 weights; {prompt} prompt tokens and {new} new ones; vLLM "
        f"{about.get('vllm')}, torch {about.get('torch')}, {about.get('device')}, attention "
        f"{about.get('attention_backend', 'as vLLM chooses')}; ratios by the log schedule."
    )


if __name__ == "__main__":
    main()
