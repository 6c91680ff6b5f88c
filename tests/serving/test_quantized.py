"""Quantised exports with per-layer widths in real vLLM, against what transformers unpacks."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt.shape import LayerShape
from tests.serving.engines import IN_PROCESS, Engines, Question, agreement
from tests.serving.test_families import PROMPTS
from tests.tiny_models import LENGTH, Tiny, write_rows

pytestmark = [
    pytest.mark.serving,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llmcompressor") is None, reason="needs the extra quantize"
    ),
]

SCHEMES = ("fp8", "w8a8", "w4a16")
WIDTHS = ((8, 2, 96), (4, 2, 0), (0, 0, 64), (4, 2, 32))
"""Layers 1 and 2 lack a sub-block; all widths suit the CPU kernels."""
MEAN_DIFFERENCE = 0.1
"""Nats, of a token's log-probability: vLLM also rounds activations (fp8, w8a8), and W4A16 on a CPU
computes in bfloat16."""


@pytest.fixture(scope="session")
def said(engines: Engines, tiny: Tiny) -> dict[str, Any]:
    """What vLLM says of every scheme, on one pruned model with grouped heads."""

    def make(folder: Path) -> dict[str, Any]:
        pruned = tiny.pruned(
            tiny.dense("llama-bfloat16").path,
            layers=tuple(LayerShape(*x) for x in WIDTHS),
        )
        rows = str(write_rows(folder / "rows.jsonl", kinds=100))
        text = ["--calibration", rows, "--samples", "16", "--sequence-length", str(LENGTH)]
        target = ["--runs-on", "cpu", "--group-size", "32"]
        for scheme in SCHEMES:
            out, grouped = str(folder / scheme), target if scheme == "w4a16" else target[:2]
            arguments = [str(pruned), out, "--scheme", scheme, *grouped, *text, "-q"]
            assert run(["export", "quantized", *arguments]) == 0
        answers, _ = engines.ask([question(folder / scheme) for scheme in SCHEMES])
        return {"folder": str(folder), "answers": dict(zip(SCHEMES, answers, strict=True))}

    return dict(engines.once("quantized", make))


def question(model: Path) -> Question:
    options = {"max_model_len": 64, "skip_tokenizer_init": True, "dtype": "bfloat16"}
    return Question(model, PROMPTS, options | IN_PROCESS)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_vllm_says_about_what_the_unpacked_weights_say(
    scheme: str, said: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    model = Path(said["folder"]) / scheme
    found = agreement(said["answers"][scheme]["answers"], PROMPTS, model)
    assert found.mean < MEAN_DIFFERENCE
    assert found.greedy > 0.8 * found.tokens
    record_property("measured", str(found))
