"""The embedded model at 25 % and 50 % in real vLLM: as it is, compiled, cached, with an adapter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt.checkpoint.reader import read_config
from slimgpt.demo import MODEL
from tests.serving.engines import (
    IN_PROCESS,
    Engines,
    Question,
    assert_agrees,
    kv_tokens,
    prune_embedded,
)

pytestmark = [pytest.mark.serving, pytest.mark.slow]

RATIOS = {"quarter": "0.25", "half": "0.5"}
BLOCK = 32
"""Tokens of a cache block: the smallest that vLLM's CPU kernels take."""


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 250, (n,), generator=generator).tolist() for n in lengths]


PROMPTS = prompts(5, 40, 100)


def question(model: Path, **options: Any) -> Question:
    return Question(model, PROMPTS, {"max_model_len": 256, **IN_PROCESS, **options})


def adapter(model: Path, folder: Path) -> tuple[Path, Path]:
    """A LoRA adapter on every projection, and the same model with it merged."""
    from peft import LoraConfig, get_peft_model

    from slimgpt.loading import load_model

    projections = [f"{p}_proj" for p in ("q", "k", "v", "o", "gate", "up", "down")]
    settings = LoraConfig(r=8, lora_alpha=16, target_modules=projections, task_type="CAUSAL_LM")
    with_adapter: Any = get_peft_model(load_model(model, device="cpu")[0], settings)
    generator = torch.Generator().manual_seed(0)
    for name, weight in with_adapter.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.05
    with_adapter.save_pretrained(folder / "adapter")
    with_adapter.merge_and_unload().save_pretrained(folder / "merged")
    return folder / "adapter", folder / "merged"


@pytest.fixture(scope="session")
def said(engines: Engines) -> dict[str, Any]:
    """Answers to every question of this file, from one process."""

    def make(folder: Path) -> dict[str, Any]:
        models = {}
        for name, ratio in RATIOS.items():
            models[name] = folder / name
            prune_embedded(models[name], ratio)
        half = models["half"]
        lora, models["adapter"] = adapter(half, folder)
        models["dense"] = MODEL  # in our class, which widens its heads for vLLM's CPU kernels
        ours = {"architectures": ["SlimLlamaForCausalLM"]}
        asked = {
            "dense": question(MODEL, hf_overrides=ours),
            **{name: question(models[name]) for name in RATIOS},
            "adapter": Question(
                half,
                PROMPTS,
                question(half, enable_lora=True, max_lora_rank=8).options,
                adapter=lora,
                prompt_logprobs=False,  # vLLM 0.32 computes none beside an adapter on a CPU
            ),
            "cached": Question(
                half,
                PROMPTS[-1:] * 3,
                question(
                    half,
                    enable_prefix_caching=True,
                    block_size=BLOCK,
                    max_num_seqs=1,
                    disable_log_stats=False,
                ).options,
                prompt_logprobs=False,
            ),
            "compiled": question(
                half, enforce_eager=False, max_num_batched_tokens=BLOCK, max_num_seqs=4
            ),
        }
        models |= {"cached": half, "compiled": half}
        answers, _ = engines.ask(list(asked.values()))
        return {
            "models": {name: str(models[name]) for name in asked},
            "prompts": {name: q.prompts for name, q in asked.items()},
            "answers": dict(zip(asked, answers, strict=True)),
        }

    return dict(engines.once("embedded", make))


@pytest.mark.parametrize("name", ["dense", *RATIOS, "adapter", "cached", "compiled"])
def test_vllm_says_what_transformers_says(
    name: str, said: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    # "compiled" also reads its prompts in chunks: they are longer than a batch may be.
    model, answer = Path(said["models"][name]), said["answers"][name]
    found = assert_agrees(answer["answers"], Question(model, said["prompts"][name], {}), model)
    started = f"engine ready in {answer['start_s']:.1f} s, {answer['kv_tokens']:,} KV tokens a GiB"
    record_property("measured", f"{found}; {started}")


def test_the_adapter_changes_what_is_said(said: dict[str, Any]) -> None:
    plain, adapted = (said["answers"][n]["answers"][0]["logprobs"] for n in ("half", "adapter"))
    assert plain != pytest.approx(adapted, abs=1e-3)


def test_a_prompt_that_was_read_before_comes_from_the_cache(said: dict[str, Any]) -> None:
    metrics = said["answers"]["cached"]["metrics"]
    whole_blocks = len(PROMPTS[-1]) // BLOCK * BLOCK
    assert metrics["vllm:prefix_cache_hits"] == 2 * whole_blocks


@pytest.mark.parametrize("name", ["dense", *RATIOS])
def test_the_kv_capacity_is_the_arithmetic_of_the_shape(name: str, said: dict[str, Any]) -> None:
    shape = read_config(Path(said["models"][name])).shape
    expected = kv_tokens(sum(x.kv_heads for x in shape.layers), shape.head_dim, block=128)
    assert said["answers"][name]["kv_tokens"] == expected
