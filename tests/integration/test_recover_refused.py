"""A recovery that made nothing better is refused, says so, and says so again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimgpt.errors import GateMissed
from tests.recovering import Recovery, Stages, quick_collections
from tests.tiny_models import Tiny, write_rows


@pytest.fixture(scope="module")
def recovery(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recovery]:
    with quick_collections():
        yield Recovery(tiny, tmp_path_factory.mktemp("recovery"))


def misses(
    out: Path, recovery: Recovery, says: str, stages: list[list[str]], **options: Any
) -> list[GateMissed]:
    """Runs twice: both say the same, nothing is published, and these stages begin."""
    missed = []
    for expected in stages:
        watcher = Stages()
        with pytest.raises(GateMissed, match=says) as refused:
            recovery.run(out, progress=watcher, **options)
        missed.append(refused.value)
        assert watcher.begun == expected
        assert "nothing is written" in str(refused.value)
        assert "--fresh" in str(refused.value)
        assert not out.exists()
    assert str(missed[0]) == str(missed[1])
    return missed


def test_a_training_that_makes_it_worse_is_refused_and_at_once_the_second_time(tmp_path, recovery):
    """It learns rows of noise by heart, and is looked at when it has."""
    noise = write_rows(tmp_path / "noise.jsonl", recovery.ROWS, kinds=125)
    options = {"data": noise, "learning_rate": 0.03, "max_steps": 40, "evaluations": 1}
    says = r"made the held-out loss no better \(5\.\d+ nats a token before, [\d.]+ at its best\)"
    stages = [["held-out loss", "recovering"], []]
    first, second = misses(tmp_path / "out", recovery, says, stages, **options)
    assert first.measured == second.measured
    assert first.limit == second.limit
    assert first.measured
    assert first.limit
    assert first.measured > first.limit
    recovery.run(tmp_path / "out", fresh=True)  # other data, and the flag that the message names


def test_a_gain_that_is_lost_in_rounding_is_refused(tmp_path, recovery, tiny):
    """All weights are so large that updates are below half their step in bfloat16."""
    source = tmp_path / "model"
    shutil.copytree(tiny.dense("llama-bfloat16").path, source)
    weights = load_file(source / "model.safetensors")
    large = {n: torch.where(w < 0, w - 0.1, w + 0.1) for n, w in weights.items()}
    save_file(large, source / "model.safetensors", {"format": "pt"})
    after = ["merging", "checking the merged model"]
    says = "merged and stored as bfloat16, the recovered weights have a held-out loss of"
    stages = [["held-out loss", "recovering", *after], after]
    first, _ = misses(tmp_path / "out", recovery, says, stages, source=source, learning_rate=1e-5)
    assert first.measured == first.limit


@pytest.mark.parametrize(
    ("evaluations", "what"), [(1, "training loss"), (6, "held-out loss")], ids=lambda x: str(x)
)
def test_a_training_that_diverges_says_so(tmp_path, recovery, evaluations, what):
    stages = [["held-out loss", "recovering"], ["recovering"]]
    says = f"the {what} is no number, the training has diverged.*give a lower --learning-rate"
    misses(
        tmp_path / "out",
        recovery,
        says,
        stages,
        learning_rate=1e30,
        warmup_steps=0,
        evaluations=evaluations,
    )
