"""What recovery gives back on the embedded model: before and after, on answers and on a text.

    .venv/bin/python bench/figures/recovery_by_ratio.py --data ../shared/data

Pruned on C4 (128 x 256 tokens), recovered on Alpaca with the paper's settings but for those given.
Prints a Markdown table: perplexity on held-out answers, WikiText-2 by the paper's protocol, and the
largest difference between the logits of the adapter model and of the merged weights.
"""

from __future__ import annotations

import tempfile
from math import exp
from pathlib import Path

import click
import torch

from slimgpt.calibration import load_calibration
from slimgpt.checkpoint.reader import read_config
from slimgpt.demo import MODEL
from slimgpt.evaluate.perplexity import Quality, measure
from slimgpt.evaluate.windows import load_text
from slimgpt.loading import load_model
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.recover.batches import mean_loss
from slimgpt.recover.data import load_training_data
from slimgpt.recover.driver import recover
from slimgpt.recover.options import RecoverOptions

COLUMNS = (
    *("removed", "learning rate", "KL weight", "best step", "answers before", "after"),
    *(
        "WikiText-2 before",
        "after",
        "KL before",
        "after",
        "merged within",
        "s pruning",
        "s healing",
    ),
)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--ratio", "ratios", type=float, multiple=True, default=(0.25, 0.5))
@click.option("--learning-rate", "rates", type=float, multiple=True, default=(1e-4,))
@click.option("--distill-weight", "weights", type=float, multiple=True, default=(0.0,))
@click.option("--max-steps", type=int)
def main(
    data: Path,
    ratios: tuple[float, ...],
    rates: tuple[float, ...],
    weights: tuple[float, ...],
    max_steps: int | None,
) -> None:
    """Print the table, a row a recovery."""
    torch.set_num_threads(1)
    click.echo(f"dense, held-out answers: {_dense_answers(data):.3f}")
    click.echo("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        for ratio in ratios:
            pruned = Path(folder) / f"pruned-{ratio}"
            seconds = _prune(data, pruned, ratio)
            before = _on_text(data, pruned)
            for rate in rates:
                for weight in weights:
                    options = RecoverOptions(
                        learning_rate=rate,
                        distill_weight=weight,
                        max_steps=max_steps,
                        device="cpu",
                    )
                    out = Path(folder) / f"recovered-{ratio}-{rate}-{weight}"
                    _row(data, pruned, out, ratio, options, before, seconds)


def _answers(data: Path) -> list[str]:
    return [str(data / "instruct" / "alpaca_subset.json")]


def _dense_answers(data: Path) -> float:
    """The dense model's perplexity on the held-out answers."""
    held_out = load_training_data(read_config(MODEL), _answers(data), RecoverOptions()).held_out
    return exp(mean_loss(load_model(MODEL, device="cpu")[0], held_out))


def _prune(data: Path, out: Path, ratio: float) -> float:
    files = [str(data / "c4" / "sample.txt")]
    options = PruneOptions(ratio, device="cpu")
    return prune(
        MODEL,
        out,
        options,
        lambda checkpoint: load_calibration(
            checkpoint, files, samples=128, sequence_length=256, seed=0
        ),
    ).seconds


def _on_text(data: Path, model: Path) -> Quality:
    loaded, meta = load_model(model, device="cpu")
    text = load_text(meta, data / "wikitext2" / "test.txt", 128, "paper")
    return measure(loaded, text, load_model(MODEL, device="cpu")[0])


def _row(
    data: Path,
    pruned: Path,
    out: Path,
    ratio: float,
    options: RecoverOptions,
    before: Quality,
    seconds: float,
) -> None:
    dense = MODEL if options.distill_weight else None
    result = recover(pruned, out, _answers(data), options, dense=dense)
    loss, merged = result.quality["held_out_loss"], result.quality["merged"]
    after = _on_text(data, out)
    cells = (
        f"{ratio:.0%}",
        f"{options.learning_rate:g}",
        f"{options.distill_weight:g}",
        f"{result.quality['best_step']} of {result.quality['steps']}",
        f"{exp(loss['before']):.2f}",
        f"{exp(loss['after']):.2f}",
        f"{before.perplexity:.2f}",
        f"{after.perplexity:.2f}",
        f"{before.kl:.3f}",
        f"{after.kl:.3f}",
        f"{merged['largest_logit_difference']:.3f}",
        f"{seconds:.0f}",
        f"{result.seconds:.0f}",
    )
    click.echo("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
