"""Time of pruning over the time of one dense forward on the same calibration tokens.

    .venv/bin/python bench/figures/time_over_forward.py --text ../shared/data/c4/sample.txt

Interleaved: forward, prune, forward, prune, ...; each ratio is of neighbours, and their median and
range are printed. The forward is transformers' own, in batches as large as pruning's, once for the
decoder layers alone and once with the LM head.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from slimgpt.calibration import Calibration, load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.demo import MODEL
from slimgpt.loading import load_model
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions

WINDOWS_A_BATCH = 8


@click.command()
@click.option("--text", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", type=click.Path(path_type=Path, exists=True), default=MODEL)
@click.option("--ratio", type=float, default=0.25)
@click.option("--samples", type=int, default=128)
@click.option("--tokens", type=int, default=256)
@click.option("--repeats", type=int, default=7)
@click.option("--method", default="exact")
def main(
    text: Path, model: Path, ratio: float, samples: int, tokens: int, repeats: int, method: str
) -> None:
    """Print the ratios."""
    calibration: Calibration = load_calibration(
        Checkpoint(model), [str(text)], samples=samples, sequence_length=tokens, seed=0
    )
    dense, _ = load_model(model, device="cpu")

    @torch.inference_mode()
    def forward(part: Callable[..., object]) -> None:
        for windows in calibration.windows.split(WINDOWS_A_BATCH):
            part(input_ids=windows, use_cache=False)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            options = PruneOptions(ratio, method=method, device="cpu")
            prune(model, Path(folder) / "out", options, lambda _: calibration)

    jobs = {
        "decoder forward": lambda: forward(dense.model),
        "forward": lambda: forward(dense),
        "prune": run,
    }
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            seconds[name].append(_timed(job))
    for name in ("forward", "decoder forward"):
        ratios = [p / f for p, f in zip(seconds["prune"], seconds[name], strict=True)]
        click.echo(
            f"prune ({method}, {ratio:.0%}, {samples} x {tokens} tokens) over {name}: median "
            f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f} "
            f"({statistics.median(seconds['prune']):.2f} s over "
            f"{statistics.median(seconds[name]):.2f} s, n = {repeats})"
        )


def _timed(job: Callable[[], None]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
