"""`slimgpt bench draft` with real engines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slimgpt.calibration import load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.demo import CALIBRATION, EVALUATION, MODEL
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from tests.serving.engines import Engines

pytestmark = [pytest.mark.serving, pytest.mark.slow]

SMALL = ["--prompts", "3", "--prompt-tokens", "24", "--max-new-tokens", "24", "--repeat", "3"]
RESOLVED_OR_NOT = (0, 3)
"""A machine that does something else may leave the ratio open; never may outputs differ."""


@pytest.fixture(scope="session")
def draft(engines: Engines) -> Path:
    """The demo model pruned by a quarter."""

    def make(folder: Path) -> str:
        out = folder / "draft"

        def calibrate(checkpoint: Checkpoint) -> Any:
            return load_calibration(
                checkpoint, [str(CALIBRATION)], samples=32, sequence_length=64, seed=0
            )

        prune(MODEL, out, PruneOptions(0.25, device="cpu"), calibrate)
        return str(out)

    return Path(engines.once("bench-draft", make))


def bench(
    engines: Engines, draft: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [engines.python, "-P", "-m", "slimgpt", "bench", "draft", MODEL, draft, *SMALL, *options],
        env=engines.environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_draft_is_measured_and_its_outputs_are_the_dense_models(engines, draft):
    done = bench(engines, draft, "--draft-tokens", "3", "--json", "--quiet")
    assert done.returncode in RESOLVED_OR_NOT, done.stderr
    found = json.loads(done.stdout)
    (row,) = found["drafts"]
    acceptance = row["acceptance"]
    assert acceptance["drafted"] == 3 * acceptance["steps"]
    assert len(acceptance["per_position"]) == 3
    assert acceptance["per_position"] == sorted(acceptance["per_position"], reverse=True)
    assert sum(acceptance["per_position"]) == pytest.approx(acceptance["tokens_per_step"] - 1)
    # A quarter less of the model still says much the same; an unrelated one would say nothing.
    assert acceptance["rate"] > 0.2
    assert row["outputs"]["identical"] + row["outputs"]["ties"] == 3
    assert row["outputs"]["different"] == 0
    assert row["n"] == found["dense_decode_tokens_per_s"]["n"] == 3
    assert row["interval"][0] <= row["ratio"] <= row["interval"][1]


def test_prompts_of_a_text_and_a_single_round_say_what_is_missing(engines, draft):
    done = bench(engines, draft, "--text", str(EVALUATION), "--repeat", "1", "--batch", "2")
    assert done.returncode == 3, done.stderr
    assert "insufficient" in done.stdout
    assert "windows of evaluation.jsonl" in " ".join(done.stdout.split())
    assert "--repeat 1 gives too few rounds" in done.stderr


def test_an_engine_that_dies_is_one_line_with_vllms_reason(engines, draft):
    done = bench(engines, draft, "--quiet", VLLM_PLUGINS="none")
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith("slimgpt: the vLLM engine of ")
    assert "Error: " in line


def test_a_draft_that_is_no_smaller_is_refused_before_an_engine_starts(engines):
    done = bench(engines, MODEL)
    assert done.returncode == 2
    assert "a draft must be smaller" in done.stderr
