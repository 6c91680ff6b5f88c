"""Random models of a planned shape, and the order in which they are measured."""

from __future__ import annotations

import json

import pytest

from slimgpt.loading import load_model
from slimgpt.planning import make_plan
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.probe import arithmetic, log_facts, random_prompts, same_answers
from slimgpt_bench.random_model import make_random_model
from slimgpt_bench.shape_bench import Scale, ShapeBench, Step, steps

DENSE = ModelShape(64, 16, 200, (LayerShape(4, 4, 96),) * 3)
SCALE = Scale(
    dense=DENSE,
    models=("dense", "p25", "p50", "p50-align128"),
    device="cpu",
    context=64,
    batches=(1, 8, 32),
    lengths=(8, 8),
    iterations=1,
    prompts=1,
    backends=("FIRST", "SECOND"),
    engine={"dtype": "bfloat16", "max_model_len": 64, "enforce_eager": True},
    environment={},
)


@pytest.mark.slow
def test_a_random_model_has_the_planned_shape_and_loads(tmp_path):
    shape = make_plan(DENSE, 0.3).target
    directory = tmp_path / "model"
    make_random_model(directory, DENSE, shape, context=64, seed=0, device="cpu")
    model, meta = load_model(directory, device="cpu")
    assert meta.shape == shape
    assert sum(p.numel() for p in model.parameters()) == shape.parameters
    config = json.loads((directory / "config.json").read_text())
    assert config["model_type"] == "slimgpt_llama"


def test_what_is_needed_most_comes_first_and_models_take_turns():
    keys = [x.key for x in steps(SCALE, 1)]
    assert len(keys) == len(set(keys))
    assert keys[:5] == [
        "probe/dense/FIRST/0",
        "probe/p25/FIRST/0",
        "probe/p50/FIRST/0",
        "latency/dense/1/0",
        "latency/p25/1/0",
    ]
    assert {Step("probe", "dense", "SECOND").key, Step("eager", "p50", "FIRST").key} <= set(keys)
    assert "align" in keys[-1]


def test_the_engines_options_are_flags_too():
    assert SCALE.flags() == ["--dtype", "bfloat16", "--max-model-len", "64", "--enforce-eager"]


def test_a_budget_that_is_spent_leaves_all_steps_for_another_run(tmp_path):
    told: list[str] = []
    bench = ShapeBench(SCALE, tmp_path, tmp_path / "results.json", 0.0, told.append)
    assert len(bench.run(list(steps(SCALE, 1)))) == len(list(steps(SCALE, 1)))
    assert told == []


def test_finished_steps_are_not_repeated(tmp_path):
    file = tmp_path / "results.json"
    done = {x.key: {"seconds": 1.0} for x in steps(SCALE, 1)}
    file.write_text(json.dumps({"steps": done}))
    told: list[str] = []
    assert ShapeBench(SCALE, tmp_path, file, 0.0, told.append).run(list(steps(SCALE, 1))) == []
    assert told == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "INFO x [gpu_model_runner.py:5348] Model loading took 12.55 GiB memory and 3.2 seconds",
            {"weights_gib": "12.55"},
        ),
        (
            "INFO x [gpu_worker.py:562] Available KV cache memory: 110.20 GiB",
            {"kv_cache_gib": "110.20"},
        ),
        (
            "INFO x [cpu_worker.py:260] Explicitly set (1.0/14.09) GiB for KV cache on node 0.",
            {"kv_cache_gib": "1.0"},
        ),
        ("INFO Using FlashAttention version 3", {"flash_attention_version": "3"}),
        (
            "INFO Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN'].",
            {"attention_backend": "FLASH_ATTN"},
        ),
        ("nothing of interest", {}),
    ],
)
def test_vllms_log_tells_memory_and_kernels(line, found):
    assert log_facts(["before", line, "after"]) == found


def test_the_arithmetic_is_the_shapes():
    found = arithmetic(DENSE, 2, kv_cache_gib=1.0)
    assert found["kv_bytes_per_token"] == 2 * 16 * 2 * 12
    assert found["kv_tokens"] == 2**30 // (2 * 16 * 2 * 12)
    assert arithmetic(DENSE, 2, None)["kv_tokens"] is None


def test_prompts_are_the_same_for_every_model():
    assert random_prompts(2, 5, 100) == random_prompts(2, 5, 100)
    assert len(random_prompts(3, 5, 100)) == 3


def test_two_probes_are_compared_within_the_noise_of_either():
    one = {"answers": {"ids": [[5]], "top": [[{"5": -1.0, "6": -1.03}]]}, "noise": 0.02}
    other = {"answers": {"ids": [[6]], "top": [[{"6": -1.0, "5": -1.01}]]}, "noise": 0.0}
    assert len(same_answers(one, other, "bfloat16").ties) == 1
    assert len(same_answers({**one, "noise": 0.001}, other, "bfloat16").differences) == 1
