"""What recovery gives back: perplexity on held-out answers and on a text, before and after.

    python bench/figures/recovery_by_ratio.py --data ../shared/data --model ../shared/models/reference-1m

Prunes by each ratio (C4, 128 x 256 tokens), recovers on Alpaca with the paper's settings but for
those given, and scores WikiText-2 as the paper does (windows of 128). One line of JSON a recovery.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from math import exp
from pathlib import Path
from typing import Any

import torch

from slimgpt.calibration import Calibration, load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.evaluate.perplexity import measure, perplexity
from slimgpt.evaluate.windows import load_text
from slimgpt.loading import load_model
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.recover.driver import recover
from slimgpt.recover.options import RecoverOptions

WINDOW = 128


def pruned_by(model: Path, out: Path, ratio: float, data: Path) -> float:
    """Prunes and returns the seconds it took."""

    def calibrate(checkpoint: Checkpoint) -> Calibration:
        files = [str(data / "c4" / "sample.txt")]
        return load_calibration(checkpoint, files, samples=128, sequence_length=256, seed=0)

    return prune(model, out, PruneOptions(ratio, device="cpu"), calibrate).seconds


def on_text(model: Path, dense: Path, data: Path) -> dict[str, Any]:
    """WikiText-2 perplexity of a model and of the dense one, and KL between them."""
    loaded, meta = load_model(model, device="cpu")
    text = load_text(meta, data / "wikitext2" / "test.txt", WINDOW, "paper")
    quality = measure(loaded, text, load_model(dense, device="cpu")[0])
    assert quality.baseline_nll is not None
    return {
        "perplexity": quality.perplexity,
        "dense": perplexity(quality.baseline_nll),
        "kl": quality.kl,
    }


def main() -> None:
    """Prints a line of JSON for each ratio and learning rate."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--ratio", type=float, nargs="+", default=[0.25, 0.5])
    arguments.add_argument("--learning-rate", type=float, nargs="+", default=[1e-4])
    arguments.add_argument("--distill-weight", type=float, nargs="+", default=[0.0])
    arguments.add_argument("--max-steps", type=int)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for ratio in given.ratio:
            pruned = Path(folder) / f"pruned-{ratio}"
            seconds = pruned_by(given.model, pruned, ratio, given.data)
            before = on_text(pruned, given.model, given.data)
            for rate in given.learning_rate:
                for weight in given.distill_weight:
                    started = time.monotonic()
                    options = RecoverOptions(
                        learning_rate=rate,
                        distill_weight=weight,
                        max_steps=given.max_steps,
                        device="cpu",
                    )
                    out = Path(folder) / f"recovered-{ratio}-{rate}-{weight}"
                    result = recover(
                        pruned,
                        out,
                        [str(given.data / "instruct" / "alpaca_subset.json")],
                        options,
                        dense=given.model if weight else None,
                    )
                    line = {
                        "ratio": ratio,
                        "learning_rate": rate,
                        "distill_weight": weight,
                        "steps": result.trained.steps,
                        "best_step": result.trained.best_step,
                        "held_out_perplexity": {
                            "before": exp(result.trained.before),
                            "after": exp(result.merged_loss),
                        },
                        "held_out_tokens": result.data["held_out_tokens"],
                        "wikitext2_before": before,
                        "wikitext2_after": on_text(out, given.model, given.data),
                        "merge": result.check.to_json(),
                        "seconds": {
                            "prune": seconds,
                            "recover": time.monotonic() - started,
                        },
                    }
                    sys.stdout.write(json.dumps(line) + "\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
