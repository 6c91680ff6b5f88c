"""What vLLM can't run of a model, what our class runs for it, and how long a text may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.reader import ConfigOnly, read_config
from slimgpt.errors import UsageError
from slimgpt_serve.head_sizes import CPU_HEAD_SIZES, kernel_head_dim
from slimgpt_serve.preflight.limits import (
    DEFAULT_POSITIONS,
    context_of,
    own_class,
    require_servable,
)

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
LONG = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 16,
    "short_factor": [1.0],
    "long_factor": [2.0],
}
NEW = (0, 32, 0)


@pytest.fixture
def meta(tmp_path: Path) -> Any:
    def written(**changes: Any) -> ConfigOnly:
        config = {k: v for k, v in (LLAMA | changes).items() if v is not None}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_config(tmp_path)

    return written


def _rope(**settings: Any) -> dict[str, Any]:
    return {"rope_parameters": settings}


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        MISTRAL,
        QWEN2,
        QWEN3,
        _rope(rope_type="linear", factor=2.0),
        _rope(rope_type="dynamic", factor=2.0),
        _rope(rope_type="llama3", factor=2.0),
        _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0),
        _rope(**LONG, factor=4.0),
        {"rope_scaling": LONG},
    ],
)
def test_every_family_and_rope_that_vllm_computes_alike_is_served(meta, changes):
    require_servable("m", meta(**changes), NEW)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_act": "gelu"}, "m has hidden_act 'gelu', and vLLM's Llama runs silu alone"),
        ({"per_layer_config": {i: {"skip": ["attention"]} for i in "01"}}, "no layer of m has"),
        (_rope(rope_type="su"), "no rope of type 'su': it takes default, linear"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, "no rope of type 'ntk'"),
        (_rope(rope_type="dynamic", alpha=2.0), "scales a dynamic rope with alpha"),
        (_rope(**LONG, factor=3.0), "factor 3.0, and vLLM takes .*, which is 4"),
        (_rope(**LONG, attention_factor=1.0), "ignores attention_factor of a longrope"),
        (_rope(rope_type="longrope"), "has no original_max_position_embeddings"),
        (
            {"model_type": "baichuan", "architectures": ["BaiChuanForCausalLM"]},
            "slimgpt export stock",
        ),
    ],
)
def test_what_vllm_computes_otherwise_is_refused(meta, changes, says):
    with pytest.raises(UsageError, match=says):
        require_servable("m", meta(**changes), NEW)


def test_an_older_vllm_that_ignores_a_yarn_setting_is_refused(meta):
    found = meta(**_rope(rope_type="yarn", factor=4.0, mscale=0.7))
    require_servable("m", found, None)
    with pytest.raises(UsageError, match=r"this vLLM ignores mscale of a yarn rope: use 0\.32"):
        require_servable("m", found, (0, 26, 0))


# -- the context --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "limit", "default"),
    [
        ({}, 64, 64),
        (_rope(rope_type="linear", factor=2.0), 64, 64),
        (_rope(rope_type="dynamic", factor=2.0), 64, 64),
        (_rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16), 64, 64),
        (_rope(rope_type="yarn", factor=2.0, original_max_position_embeddings=16), 32, 32),
        (_rope(**LONG), 64, 16),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 8}, 64, 8),
        ({"max_position_embeddings": None}, 2048, 2048),
    ],
)
def test_the_context_is_what_vllm_can_be_told(meta, changes, limit, default):
    found = context_of(meta(**changes))
    assert (found.limit, found.default) == (limit, default)
    assert (found.note is not None) == (limit != default)


def test_positions_that_a_config_leaves_out_are_transformers_own():
    from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    configs: tuple[Any, ...] = (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)
    assert {x.model_type: x().max_position_embeddings for x in configs} == DEFAULT_POSITIONS


# -- whose class --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "on_cpu", "on_cuda"),
    [
        ({}, None, None),
        ({"head_dim": 16}, "SlimLlamaForCausalLM", None),
        (MISTRAL | {"head_dim": 16}, "SlimMistralForCausalLM", None),
        (QWEN2, None, None),
        (QWEN2 | {"head_dim": 64}, "SlimQwen2ForCausalLM", "SlimQwen2ForCausalLM"),
        (
            QWEN3 | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
            "SlimQwen3ForCausalLM",
            "SlimQwen3ForCausalLM",
        ),
        (
            {
                "model_type": "slimgpt_llama",
                "architectures": ["SlimLlamaForCausalLM"],
                "head_dim": 16,
            },
            None,
            None,
        ),
    ],
)
def test_stock_models_that_vllms_class_cant_run_are_run_by_ours(meta, changes, on_cpu, on_cuda):
    found = meta(**changes)
    assert own_class(found, "cpu") == on_cpu
    assert own_class(found, "cuda") == on_cuda


@pytest.mark.parametrize(("head", "wide"), [(16, 32), (32, 32), (48, 64), (128, 128), (600, 600)])
def test_a_narrow_head_is_widened_to_the_next_that_a_cpu_kernel_takes(head, wide):
    assert kernel_head_dim(head, "cpu") == wide
    assert kernel_head_dim(head, "cuda") == head
    assert head in CPU_HEAD_SIZES or head != wide or head > max(CPU_HEAD_SIZES)
