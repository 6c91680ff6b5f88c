"""Ropes that vLLM computes as transformers does up to a length, which the server keeps to."""

from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.reader import read_config
from slimgpt_serve.preflight.limits import context_of
from tests.serving.engines import IN_PROCESS, Engines, Question, assert_agrees
from tests.tiny_models import Tiny, random_ids

pytestmark = [pytest.mark.serving, pytest.mark.slow]

TOKENS = 8


def _question(model: Path, *, most: bool) -> Question:
    """Texts as long as vLLM is told to take; the longest that it can be told, or the default."""
    context = context_of(read_config(model))
    length = context.limit if most else context.default
    # Beyond the default each text is so long that transformers takes the long factors too.
    shortest = context.default + 1 if most else 3
    prompts = [random_ids(n, seed=n).tolist() for n in (shortest, length - TOKENS)]
    options = {
        "max_model_len": length,
        "skip_tokenizer_init": True,
        "hf_overrides": {"architectures": ["SlimLlamaForCausalLM"]},
        **IN_PROCESS,
    }
    return Question(model, prompts, options, max_tokens=TOKENS)


CASES = {
    "dynamic": ("rope-dynamic", False),
    "longrope": ("rope-longrope", False),
    "longrope, long": ("rope-longrope", True),
}


@pytest.fixture(scope="session")
def rope_answers(engines: Engines, tiny: Tiny) -> Any:
    def make(folder: Path) -> dict[str, Any]:
        paths = {name: tiny.dense(source).path for name, (source, _) in CASES.items()}
        questions = [_question(paths[name], most=CASES[name][1]) for name in CASES]
        answers, _ = engines.ask(questions)
        found = {name: str(path) for name, path in paths.items()}
        return {"models": found, "answers": dict(zip(CASES, answers, strict=True))}

    return engines.once("ropes", make)


@pytest.mark.parametrize("name", CASES)
def test_within_its_context_a_rope_is_transformers_own(name: str, rope_answers: Any) -> None:
    model = Path(rope_answers["models"][name])
    question = _question(model, most=CASES[name][1])
    assert_agrees(rope_answers["answers"][name]["answers"], question, model)
