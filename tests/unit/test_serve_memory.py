"""What a device holds of a served model, as arithmetic on shapes."""

from __future__ import annotations

from math import prod

import pytest

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.shape import LayerShape, ModelShape
from slimgpt_serve.parallel import divides, require_attention
from slimgpt_serve.preflight import budget as budgets
from slimgpt_serve.preflight.budget import cpu_budget, gpu_budget
from slimgpt_serve.preflight.machine import Device, _container_bytes, cpu_binding, visible
from slimgpt_serve.preflight.memory import (
    GIB,
    Footprint,
    footprint,
    largest,
    rank_shape,
    stage_shapes,
    step_sizes,
    whole_blocks,
)

SHAPE = ModelShape(
    hidden_size=256,
    head_dim=32,
    vocab_size=1024,
    layers=(LayerShape(8, 2, 512), LayerShape(0, 0, 256), LayerShape(4, 4, 0)),
    qkv_bias=True,
    output_bias=True,
    qk_norm=True,
)
HELD = Footprint(weight_bytes=2 * GIB, kv_bytes_per_token=1024, activation_bytes=GIB)


def _footprint(shape: ModelShape = SHAPE, **changes: object) -> Footprint:
    options: dict[str, object] = {
        "degree": 1,
        "platform": "cuda",
        "weight_bytes_per_value": 2,
        "kv_bytes_per_value": 2,
        "step_tokens": 10,
        "step_sequences": 3,
    }
    return footprint(shape, **(options | changes))  # type: ignore[arg-type]


def test_one_device_holds_the_whole_model():
    held = _footprint()
    assert held.weight_bytes == SHAPE.weight_bytes(2)
    assert held.kv_bytes_per_token == SHAPE.kv_bytes_per_token(2)


def test_devices_together_hold_every_matrix_once_and_every_norm_each():
    degree = 2
    part = rank_shape(SHAPE, degree)
    whole = [SHAPE.layer_tensors(x) for x in SHAPE.layers]
    parts = [part.layer_tensors(x) for x in part.layers]
    for tensors, split in zip(whole, parts, strict=True):
        for name, size in tensors.items():
            replicated = "norm" in name or name == "self_attn.o_proj.bias"
            assert prod(split[name]) == prod(size) // (1 if replicated else degree), name


@pytest.mark.parametrize(
    ("layers", "stages", "sizes"),
    [(32, 1, [32]), (8, 4, [2] * 4), (7, 4, [2, 2, 2, 1]), (3, 2, [2, 1])],
)
def test_stages_hold_the_layers_that_vllm_gives_them(layers, stages, sizes):
    whole = SHAPE.with_layers(tuple(LayerShape(8, 2, 64 + i) for i in range(layers)))
    parts = stage_shapes(whole, stages)
    assert [len(x.layers) for x in parts] == sizes
    assert [x for part in parts for x in part.layers] == list(whole.layers)


def test_a_draft_takes_turns_in_the_activations_and_adds_the_rest():
    one, other = Footprint(1, 2, 3), Footprint(10, 20, 30)
    assert one + other == other + one == Footprint(11, 22, 30)


def test_the_widest_sub_block_decides_on_the_activations():
    thin, wide_ffn, wide_attention = (
        _footprint(SHAPE.with_layers((LayerShape(*x),)), step_sequences=0).activation_bytes
        for x in ((1, 1, 64), (1, 1, 512), (16, 16, 64))
    )
    # Ten tokens of two bytes: gate, up and their product; q, k, v and what is attended.
    assert wide_ffn == 10 * 2 * (3 * 256 + 3 * 512)
    assert wide_attention == 10 * 2 * (3 * 256 + 4 * 16 * 32)
    assert thin < wide_ffn


@pytest.mark.parametrize(
    ("widths", "degree", "divides_it"),
    [
        ((8, 2, 512), 2, True),
        ((8, 2, 512), 4, True),  # each KV head on two devices
        ((6, 3, 512), 2, False),
        ((6, 2, 512), 4, False),
        ((8, 2, 510), 4, False),
        ((0, 0, 512), 4, True),
        ((8, 2, 0), 4, True),
    ],
)
def test_a_degree_divides_a_layer_as_vllms_layers_demand(widths, degree, divides_it):
    assert divides(LayerShape(*widths), degree) is divides_it


def test_a_stage_without_attention_is_refused():
    layers = [LayerShape(8, 2, 64)] * 3 + [LayerShape(0, 0, 64)] * 3
    require_attention(layers, 0, 6)
    with pytest.raises(UsageError, match="layers 3 to 5 are a pipeline stage, and none of them"):
        require_attention(layers, 3, 6)


def test_a_device_must_do_for_the_largest_stage():
    assert largest([Footprint(1, 5, 3), Footprint(2, 4, 3)]) == Footprint(2, 5, 3)


def test_kv_heads_that_are_fewer_than_devices_are_kept_on_several():
    part = rank_shape(SHAPE.with_layers((LayerShape(8, 2, 512),)), 4)
    assert part.layers == (LayerShape(2, 1, 128),)
    held = _footprint(SHAPE.with_layers((LayerShape(8, 2, 512),)), degree=4)
    assert held.kv_bytes_per_token == 2 * 32 * 2 * 1


def test_the_vocabulary_is_padded_to_what_devices_share():
    odd = ModelShape(256, 32, 1000, (LayerShape(8, 2, 512),))
    assert rank_shape(odd, 1).vocab_size == 1024
    assert rank_shape(odd, 2).vocab_size == 512


def test_cpu_kernels_widen_the_kv_cache_and_not_the_weights():
    narrow = ModelShape(64, 16, 128, (LayerShape(4, 2, 96),))
    on_cpu, on_gpu = (_footprint(narrow, platform=x) for x in ("cpu", "cuda"))
    assert on_cpu.kv_bytes_per_token == 2 * on_gpu.kv_bytes_per_token
    assert on_cpu.weight_bytes == on_gpu.weight_bytes


def test_quantised_weights_count_as_stored():
    held = _footprint(packed_bytes=1001, degree=2)
    assert held.weight_bytes == 501


def test_a_draft_adds_weights_and_cache_and_shares_the_activations():
    both = HELD + Footprint(weight_bytes=GIB, kv_bytes_per_token=24, activation_bytes=7)
    assert both == Footprint(3 * GIB, 1048, GIB)


def test_more_tokens_or_sequences_of_a_step_need_more_activations():
    least = _footprint().activation_bytes
    assert _footprint(step_tokens=11).activation_bytes > least
    assert _footprint(step_sequences=4).activation_bytes > least


def test_a_cache_holds_whole_blocks():
    assert whole_blocks(1024 * 129, 1024, "cpu") == 128
    assert whole_blocks(1024 * 127, 1024, "cpu") == 0
    assert whole_blocks(1024 * 129, 1024, "cuda") == 128


@pytest.mark.parametrize(
    ("platform", "total", "name", "expected"),
    [
        ("cpu", 0, "", (4096, 256)),
        ("cuda", 24 * GIB, "L4", (2048, 256)),
        ("cuda", 80 * GIB, "NVIDIA A100-SXM4-80GB", (2048, 256)),
        ("cuda", 80 * GIB, "NVIDIA H100", (8192, 1024)),
        ("cuda", 180 * GIB, "NVIDIA B200", (16384, 1024)),
    ],
)
def test_a_step_is_as_large_as_vllm_makes_it_there(platform, total, name, expected):
    assert step_sizes(platform, total, name, 2) == expected


# -- GPUs ---------------------------------------------------------------------------------------


def test_the_cache_of_a_gpu_is_what_its_share_leaves():
    device = Device(free_bytes=10 * GIB, total_bytes=10 * GIB, name="")
    assert gpu_budget([device], 1, 0.5, HELD, None).kv_bytes == 2 * GIB
    assert gpu_budget([device], 1, 0.5, HELD, 6 * GIB).kv_bytes == 6 * GIB


def test_the_smallest_and_the_busiest_of_unlike_gpus_decide():
    pair = [Device(20 * GIB, 20 * GIB, ""), Device(9 * GIB, 10 * GIB, "")]
    assert gpu_budget(pair, 2, 0.5, HELD, None).memory_bytes == 5 * GIB
    with pytest.raises(EnvironmentProblem, match=r"on one 9\.0 GiB are free"):
        gpu_budget(pair, 2, 0.95, HELD, None)
    # A cache of a given size leaves the share out of account.
    assert gpu_budget(pair, 2, 0.95, HELD, GIB).memory_bytes == 9 * GIB


@pytest.mark.parametrize(
    ("device", "degree", "share", "says"),
    [
        (Device(10 * GIB, 10 * GIB, ""), 2, 0.9, "2 GPUs are needed, and torch sees 1"),
        (Device(4 * GIB, 10 * GIB, ""), 1, 0.9, "--gpu-memory-utilization 0.9 takes 9.0 GiB"),
        (Device(10 * GIB, 10 * GIB, ""), 1, 0.2, "2.0 GiB of weights, about 1.0 GiB of"),
    ],
)
def test_a_gpu_that_is_missing_in_use_or_too_small_is_refused(device, degree, share, says):
    with pytest.raises(EnvironmentProblem, match=says):
        gpu_budget([device], degree, share, HELD, None)


def test_one_of_the_gpus_is_chosen_among_those_that_are_seen():
    assert visible("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,GPU-7"}) == {
        "CUDA_VISIBLE_DEVICES": "GPU-7"
    }
    assert visible("cuda:1", {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert visible("cuda", {}) == {}
    with pytest.raises(EnvironmentProblem, match="leaves 1 GPUs"):
        visible("cuda:1", {"CUDA_VISIBLE_DEVICES": "4"})


# -- CPU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_gib", "degree", "wanted_gib", "space"),
    [(100, 1, 0, 4), (7, 1, 0, 2), (4, 1, 0, 1), (100, 1, 20, 20), (20, 2, 0, 4), (12, 2, 0, 2)],
)
def test_the_cache_on_a_cpu_is_a_share_of_what_is_free(
    monkeypatch, free_gib, degree, wanted_gib, space
):
    monkeypatch.setattr(budgets, "free_memory_bytes", lambda: free_gib * GIB)
    found = cpu_budget({}, degree, HELD, None, wanted_gib * GIB)
    assert (found.kv_space, found.kv_bytes) == (space, space * GIB)


def test_a_cache_that_nobody_asked_for_does_not_keep_a_model_out(monkeypatch):
    monkeypatch.setattr(budgets, "free_memory_bytes", lambda: 10 * GIB)
    large = Footprint(weight_bytes=7 * GIB, kv_bytes_per_token=1024, activation_bytes=GIB)
    assert cpu_budget({}, 1, large, None, 0).kv_bytes == 2 * GIB


def test_the_users_own_cache_size_stays(monkeypatch):
    monkeypatch.setattr(budgets, "free_memory_bytes", lambda: 100 * GIB)
    given = cpu_budget({"VLLM_CPU_KVCACHE_SPACE": "7"}, 1, HELD, None, 0)
    assert (given.kv_bytes, given.kv_space) == (7 * GIB, None)
    assert cpu_budget({}, 1, HELD, 12345, 0).kv_bytes == 12345


def test_a_model_larger_than_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(budgets, "free_memory_bytes", lambda: 3 * GIB)
    with pytest.raises(EnvironmentProblem, match=r"2.0 GiB of weights.*3.0 GiB may be used"):
        cpu_budget({}, 1, HELD, None, 0)
    monkeypatch.setattr(budgets, "free_memory_bytes", lambda: None)
    assert cpu_budget({}, 1, HELD, None, 0).memory_bytes is None


@pytest.mark.parametrize("given", ["0", "half", "-1", "2.5"])
def test_a_cache_size_that_is_no_number_is_refused(given):
    with pytest.raises(UsageError, match="give whole GiB, at least 1, or unset it"):
        cpu_budget({"VLLM_CPU_KVCACHE_SPACE": given}, 1, HELD, None, 0)


def test_a_containers_limit_counts_and_its_page_cache_does_not(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 200\n")
    assert _container_bytes(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_bytes(tmp_path) is None
    assert _container_bytes(tmp_path / "none") is None


def test_ranks_on_one_memory_node_get_processors_of_their_own(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 5, 6})
    assert cpu_binding(1) is None
    many = 64  # more than any machine of ours has memory nodes
    with pytest.raises(EnvironmentProblem, match="64 processors are needed"):
        cpu_binding(many)
    monkeypatch.setattr("pathlib.Path.glob", lambda *_: iter(()))
    assert cpu_binding(2) == "0,1|2,5"
