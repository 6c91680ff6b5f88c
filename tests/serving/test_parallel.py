"""Per-layer widths over two processes: tensor parallel, pipeline parallel, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimgpt.shape import LayerShape
from tests.serving.engines import Engines, Question, assert_agrees, prune_embedded
from tests.serving.test_families import HOLES, PROMPTS
from tests.tiny_models import Tiny

pytestmark = [pytest.mark.serving, pytest.mark.slow]

TWO_CORES = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
"""vLLM's CPU workers find no cores of their own without it."""
EAGER = {"max_model_len": 64, "enforce_eager": True}
COMPILED = {"max_model_len": 64, "enforce_eager": False}
"""vLLM 0.32 makes the buffers between pipeline stages while it warms up compiled code: without,
a pipeline on CPUs fails for every model, stock ones too."""


def asked_once(engines: Engines, name: str, model: Path, **options: Any) -> dict[str, Any]:
    """What one engine with workers said."""

    def make(_: Path) -> dict[str, Any]:
        question = Question(model, PROMPTS, options)
        answers, log = engines.ask([question], in_process=False, **TWO_CORES)
        return {"model": str(model), "log": log, **answers[0]}

    return dict(engines.once(name, make))


def test_tensor_parallel_says_what_transformers_says(
    engines: Engines, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    prune_embedded(tmp_path / "out", "0.4", "--tensor-parallel", "2")
    said = asked_once(engines, "tensor", tmp_path / "out", tensor_parallel_size=2, **EAGER)
    asked = Question(tmp_path / "out", PROMPTS, {})
    found = assert_agrees(said["answers"], asked, tmp_path / "out")
    record_property("measured", f"{found}; engine ready in {said['start_s']:.1f} s")


def test_pipeline_parallel_says_what_transformers_says(
    engines: Engines, tiny: Tiny, record_property: Callable[[str, object], None]
) -> None:
    # The first stage has one attention and one FFN in its two layers; the second one of each too.
    model = tiny.pruned(tiny.dense("llama-tied").path, layers=tuple(LayerShape(*x) for x in HOLES))
    options = {"pipeline_parallel_size": 2, "skip_tokenizer_init": True, **COMPILED}
    said = asked_once(engines, "pipeline", model, **options)
    found = assert_agrees(said["answers"], Question(model, PROMPTS, {}), model)
    record_property("measured", f"{found}; engine ready in {said['start_s']:.1f} s")


def test_a_stage_without_attention_is_refused_in_one_line(engines: Engines, tiny: Tiny) -> None:
    widths = ((4, 2, 80), (4, 2, 0), (0, 0, 33), (0, 0, 64))
    dense = tiny.dense("llama-tied").path
    model = tiny.pruned(dense, layers=tuple(LayerShape(*x) for x in widths))
    options = {"pipeline_parallel_size": 2, "skip_tokenizer_init": True, **EAGER}
    said = asked_once(engines, "no-attention", model, **options)
    assert "refused" in said
    assert "UsageError: layers 2 to 3 are a pipeline stage, and none of them has" in said["log"]


def test_a_degree_that_divides_no_layer_is_refused_in_one_line(
    engines: Engines, tmp_path: Path
) -> None:
    prune_embedded(tmp_path / "out", "0.5")
    said = asked_once(engines, "refused", tmp_path / "out", tensor_parallel_size=2, **EAGER)
    assert "refused" in said
    assert "UsageError: tensor parallel 2 does not divide layer 1 (" in said["log"]
    assert "or prune with --tensor-parallel 2" in said["log"]
