"""Perplexity of the embedded model at several ratios, both methods: the table of the README.

    .venv/bin/python bench/figures/quality_by_ratio.py --data ../shared/data

Calibrated on C4; both methods remove the same decoder parameters, because the plan does not depend
on the method. Prints a Markdown table; every number states its text and window.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from slimgpt.calibration import load_calibration
from slimgpt.checkpoint.reader import Checkpoint, read_config
from slimgpt.demo import MODEL
from slimgpt.evaluate.perplexity import measure
from slimgpt.evaluate.windows import EvaluationText, load_text
from slimgpt.loading import load_model
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions

TEXTS = ("wikitext2/test.txt", "gutenberg/valid.txt")
WINDOWS = (128, 256)
RATIOS = (0.2, 0.25, 0.33, 0.5)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--ratio", "ratios", type=float, multiple=True, default=RATIOS)
@click.option("--method", "methods", multiple=True, default=("slimgpt", "exact"))
@click.option("--damping", type=float)
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), help="Calibration draws.")
def main(
    data: Path,
    ratios: tuple[float, ...],
    methods: tuple[str, ...],
    damping: float | None,
    seeds: tuple[int, ...],
) -> None:
    """Print the table."""
    meta = read_config(MODEL)
    texts = [load_text(meta, data / name, window) for name in TEXTS for window in WINDOWS]
    heads = [f"{t.name} {t.windows.shape[1]}" for t in texts]
    click.echo("| removed | method | seed | " + " | ".join(heads) + " | KL | s |")
    click.echo("|---|---|---|" + "---|" * (len(heads) + 2))
    dense, _ = load_model(MODEL, device="cpu")
    _row("0", "dense", "", dense, texts, None, 0.0)
    for ratio in ratios:
        for seed in seeds:
            for method in methods:
                _pruned_row(data, ratio, method, damping, seed, texts, dense)


def _pruned_row(
    data: Path,
    ratio: float,
    method: str,
    damping: float | None,
    seed: int,
    texts: list[EvaluationText],
    dense: Any,
) -> None:
    def calibrate(checkpoint: Checkpoint) -> Any:
        source = [str(data / "c4" / "sample.txt")]
        return load_calibration(checkpoint, source, samples=128, sequence_length=256, seed=seed)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        started = time.monotonic()
        options = PruneOptions(ratio, method=method, damping=damping, device="cpu")
        plan = prune(MODEL, out, options, calibrate).plan
        seconds = time.monotonic() - started
        model, _ = load_model(out, device="cpu")
        _row(f"{plan.achieved:.2%}", method, str(seed), model, texts, dense, seconds)


def _row(
    removed: str,
    method: str,
    seed: str,
    model: Any,
    texts: list[EvaluationText],
    dense: Any | None,
    seconds: float,
) -> None:
    scores = [measure(model, text) for text in texts[:-1]]
    scores.append(measure(model, texts[-1], dense))
    cells = [f"{s.perplexity:.2f}" for s in scores]
    cells += [f"{scores[-1].kl or 0.0:.4f}", f"{seconds:.1f}"]
    click.echo(f"| {removed} | {method} | {seed} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
