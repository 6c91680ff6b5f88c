"""The embedded model, dense against 25 % and 50 % less, on three engines; then one page of it all.

    python bench/figures/compare_engines.py --work /tmp/work --out /tmp/results \
        --vllm .venv-vllm/bin/python

Models are pruned and exported once. Every step is a `slimgpt bench` command that keeps its result;
stopped or killed, the same command goes on with the steps that are missing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from slimgpt.demo import CALIBRATION, EVALUATION, MODEL

RATIOS = {"p25": "0.25", "p50": "0.5"}
_DONE = (0, 3)
"""Exit codes that leave a result: 3 is one that could not be resolved, and says why."""


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For the models.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="For the results.")
@click.option(
    "--vllm",
    type=click.Path(path_type=Path),
    help="Python of vLLM's environment; without, no vLLM.",
)
@click.option("--rounds", type=int, default=6, show_default=True)
@click.option("--vllm-rounds", type=int, default=3, show_default=True, help="A start takes long.")
@click.option("--threads", type=int, default=1, show_default=True)
def main(
    work: Path, out: Path, vllm: Path | None, rounds: int, vllm_rounds: int, threads: int
) -> None:
    """Makes what is missing, in order."""
    out.mkdir(parents=True, exist_ok=True)
    here = Path(sys.executable)
    models = _models(work, here)
    common = ["--prompt", "128", "--output", "64", "--threads", str(threads), "--quiet"]
    for engine, python, count in _engines(here, vllm, rounds, vllm_rounds):
        for name in RATIOS:
            pair = [models[engine == "onnx", x] for x in ("dense", name)]
            words = ["bench", "compare", *pair, "--engine", engine, "--rounds", str(count), *common]
            _step(python, out / f"compare-{engine}-{name}", words)
    text = ["--text", str(EVALUATION), "--quiet"]
    pruned = [models[False, name] for name in RATIOS]
    _step(here, out / "quality", ["bench", "quality", models[False, "dense"], *pruned, *text])
    runs = [str(x) for x in sorted(out.iterdir()) if (x / "result.json").is_file()]
    page = str(out / "report.html")
    exports = [models[True, name] for name in RATIOS]
    _run(here, ["report", *runs, *pruned, *exports, "--to", page, "--overwrite"])


def _engines(
    here: Path, vllm: Path | None, rounds: int, vllm_rounds: int
) -> Iterator[tuple[str, Path, int]]:
    yield "onnx", here, rounds
    yield "transformers", here, rounds
    if vllm:
        yield "vllm", vllm, vllm_rounds


def _models(work: Path, python: Path) -> dict[tuple[bool, str], str]:
    """Checkpoints and, with True, their exports."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoints = {"dense": MODEL} | {name: work / name for name in RATIOS}
    for name, ratio in RATIOS.items():
        if not checkpoints[name].exists():
            asked = ["--ratio", ratio, "--calibration", str(CALIBRATION), "--quiet"]
            _run(python, ["prune", str(MODEL), str(checkpoints[name]), *asked])
    found: dict[tuple[bool, str], str] = {}
    for name, checkpoint in checkpoints.items():
        export = work / f"{name}-onnx"
        if not export.exists():
            _run(python, ["export", "onnx", str(checkpoint), str(export), "--quiet"])
        found |= {(False, name): str(checkpoint), (True, name): str(export)}
    return found


def _step(python: Path, save: Path, words: list[str]) -> None:
    if not save.exists():
        _run(python, [*words, "--save", str(save)])


def _run(python: Path, words: list[str]) -> None:
    started = time.monotonic()
    click.echo(f"$ slimgpt {' '.join(words)}")
    code = subprocess.run([python, "-P", "-m", "slimgpt", *words], check=False).returncode
    click.echo(f"exit code {code}, {time.monotonic() - started:.0f} s\n")
    if code not in _DONE:
        sys.exit(code)


if __name__ == "__main__":
    main()
