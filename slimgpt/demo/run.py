"""The demo: prune the embedded model, load the result as a user would, set it beside the dense."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.calibration import load_calibration
from slimgpt.checkpoint.reader import Checkpoint, read_config
from slimgpt.demo import CALIBRATION, EVALUATION, MODEL
from slimgpt.errors import EnvironmentProblem
from slimgpt.evaluate.perplexity import Quality, measure, perplexity
from slimgpt.evaluate.windows import load_text
from slimgpt.loading import load_model
from slimgpt.progress import Progress, stage
from slimgpt.prune.driver import PruneResult, prune
from slimgpt.prune.options import PruneOptions

WINDOW = 128
SAMPLES = 128
SEQUENCE_LENGTH = 256
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Demo:
    """Everything the demo's table shows."""

    pruned: PruneResult
    quality: Quality
    speed: dict[str, list[dict[str, float]]]
    seconds: float

    def rows(self) -> list[dict[str, Any]]:
        """One row a quantity: its name, unit, dense and pruned value."""
        plan, quality = self.pruned.plan, self.quality
        dense, slim = plan.source, plan.target
        assert quality.baseline_nll is not None
        stored = read_config(MODEL).bytes_per_value

        def row(name: str, unit: str, before: float, after: float | None) -> dict[str, Any]:
            return {"quantity": name, "unit": unit, "dense": before, "pruned": after}

        return [
            row("parameters", "", dense.parameters, slim.parameters),
            row("decoder parameters", "", dense.decoder_parameters, slim.decoder_parameters),
            row("weight bytes", "B", dense.weight_bytes(stored), slim.weight_bytes(stored)),
            row(
                "KV bytes a token",
                "B",
                dense.kv_bytes_per_token(stored),
                slim.kv_bytes_per_token(stored),
            ),
            row("perplexity", "", perplexity(quality.baseline_nll), quality.perplexity),
            row("KL to dense", "nats/token", 0.0, quality.kl),
            row(
                "decode speed",
                "tokens/s",
                self._median("dense", "tokens_per_s"),
                self._median("pruned", "tokens_per_s"),
            ),
            row(
                "peak memory",
                "B",
                self._median("dense", "peak_memory_bytes"),
                self._median("pruned", "peak_memory_bytes"),
            ),
        ]

    def _median(self, which: str, key: str) -> float:
        return statistics.median(run[key] for run in self.speed[which])


def run_demo(out: Path, ratio: float, progress: Progress) -> Demo:
    """Prunes the embedded model into ``out`` and measures both.

    Args:
        out: must not exist.
        ratio: fraction of decoder parameters to remove.
        progress: watches.
    """
    started = time.monotonic()

    def calibrate(checkpoint: Checkpoint) -> Any:
        return load_calibration(
            checkpoint, [str(CALIBRATION)], samples=SAMPLES, sequence_length=SEQUENCE_LENGTH, seed=0
        )

    options = PruneOptions(ratio, device="cpu")
    result = prune(
        MODEL, out, options, calibrate, source_name="slimgpt/reference-1m", progress=progress
    )
    dense, meta = load_model(MODEL, device="cpu")
    slim, _ = load_model(out, device="cpu")
    quality = measure(slim, load_text(meta, EVALUATION, WINDOW), dense, progress)
    speed = _interleaved({"dense": MODEL, "pruned": out}, progress)
    return Demo(result, quality, speed, time.monotonic() - started)


def _interleaved(models: dict[str, Path], progress: Progress) -> dict[str, list[dict[str, float]]]:
    """Dense, pruned, dense, pruned, ... each time in a fresh process."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    with stage(progress, "measuring speed", ROUNDS * len(models)):
        for _ in range(ROUNDS):
            for name, directory in models.items():
                runs[name].append(_in_a_process(directory))
                progress.advance()
    return runs


def _in_a_process(directory: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "slimgpt.demo.measure", str(directory)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise EnvironmentProblem(f"the demo can't measure {directory} in a process: {last}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]
