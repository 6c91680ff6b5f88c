"""Target shapes: the ratio is met, constraints hold, and what can't be met is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgpt.errors import UsageError
from slimgpt.planning import Constraints, Plan, attention_options, make_plan
from slimgpt.schedule import SCHEDULES
from slimgpt.shape import LayerShape, ModelShape

MHA = ModelShape(128, 16, 4096, (LayerShape(8, 8, 352),) * 6, tied_embeddings=True)
GQA = ModelShape(4096, 128, 128256, (LayerShape(32, 8, 14336),) * 32)


def tolerance(shape: ModelShape, constraints: Constraints) -> float:
    """Half a head or one aligned width (on every layer where all are alike), in parameters."""
    width = 3 * shape.hidden_size * constraints.ffn_step
    per_layer = len(shape.layers) if constraints.uniform else 1
    return max(2 * shape.hidden_size * shape.head_dim, width * per_layer)


def plan_or_refusal(
    shape: ModelShape, ratio: float, schedule: str, constraints: Constraints
) -> tuple[Plan | None, str]:
    try:
        return make_plan(shape, ratio, schedule=schedule, constraints=constraints), ""
    except UsageError as refusal:
        return None, str(refusal)


@settings(max_examples=300, deadline=None)
@given(
    shape=st.sampled_from([MHA, GQA]),
    ratio=st.floats(0, 0.55),
    schedule=st.sampled_from(SCHEDULES),
    kv=st.sampled_from([None, "keep", "prune"]),
    align=st.sampled_from([1, 8, 32, 128]),
    tensor_parallel=st.sampled_from([1, 2, 4]),
    uniform=st.booleans(),
)
def test_every_plan_meets_its_ratio_and_constraints_or_is_refused_with_a_way_out(
    shape, ratio, schedule, kv, align, tensor_parallel, uniform
):
    constraints = Constraints(kv, align, tensor_parallel, uniform)
    plan, refusal = plan_or_refusal(shape, ratio, schedule, constraints)
    if plan is None:
        assert "possible" in refusal or "--kv-heads" in refusal
        return
    off = abs(plan.achieved - ratio) * shape.decoder_parameters
    assert off <= tolerance(shape, constraints) * (1 + 1e-9)
    for before, after in zip(shape.layers, plan.target.layers, strict=True):
        assert after.ffn % math.lcm(align, tensor_parallel) == 0
        assert after.query_heads % tensor_parallel == 0
        assert after.kv_heads % tensor_parallel == 0 or tensor_parallel % after.kv_heads == 0
        assert 1 <= after.query_heads <= before.query_heads
        assert 1 <= after.ffn <= before.ffn
        if plan.kv_heads == "keep":
            assert after.kv_heads == before.kv_heads
        else:
            assert after.group_size == before.group_size
    if uniform:
        assert plan.target.is_uniform


@pytest.mark.parametrize("ratio", [0.2, 0.25, 0.33, 0.5])
def test_unconstrained_ratio_is_met_within_one_neuron(ratio):
    plan = make_plan(MHA, ratio)
    assert abs(plan.achieved - ratio) * MHA.decoder_parameters <= 3 * MHA.hidden_size


def test_heads_follow_the_papers_rounding():
    plan = make_plan(MHA, 0.25)
    for layer, ratio in zip(plan.target.layers, plan.layer_ratios, strict=True):
        assert layer.query_heads == 8 - round(8 * ratio)


def test_ratio_zero_changes_nothing():
    assert make_plan(GQA, 0).target == GQA


def test_default_for_gqa_keeps_kv_heads_and_for_mha_prunes_them():
    assert make_plan(GQA, 0.25).kv_heads == "keep"
    assert make_plan(MHA, 0.25).kv_heads == "prune"


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, math.nan])
def test_ratios_outside_the_range_are_refused(ratio):
    with pytest.raises(UsageError, match=r"--ratio .* at least 0 and below 1"):
        make_plan(MHA, ratio)


def test_less_than_one_head_is_refused_and_the_largest_possible_ratio_named():
    with pytest.raises(UsageError, match=r"--ratio 0.97 .*largest possible ratio below it is") as e:
        make_plan(MHA, 0.97, schedule="uniform")
    named = float(str(e.value).split()[-1])
    assert make_plan(MHA, named, schedule="uniform").achieved == pytest.approx(named, abs=0.01)


def test_tensor_parallel_that_divides_nothing_names_what_does():
    with pytest.raises(UsageError, match=r"--tensor-parallel 5 .*possible here: 1, 2, 4, 8"):
        make_plan(GQA, 0.25, constraints=Constraints(tensor_parallel=5))


def test_keep_is_refused_where_every_query_head_has_its_own_kv_head():
    with pytest.raises(UsageError, match="use --kv-heads prune"):
        make_plan(MHA, 0.25, constraints=Constraints("keep"))


def test_kv_heads_are_replicated_only_when_ranks_are_a_multiple():
    assert attention_options(LayerShape(8, 2, 1), 4, "keep") == [(4, 2), (8, 2)]
    assert attention_options(LayerShape(12, 3, 1), 2, "keep") == []


def test_layers_without_a_sub_block_keep_lacking_it():
    shape = ModelShape(
        128, 16, 100, (LayerShape(8, 8, 352), LayerShape(0, 0, 352), LayerShape(8, 8, 0))
    )
    target = make_plan(shape, 0.2).target.layers
    assert (target[1].query_heads, target[2].ffn) == (0, 0)
    with pytest.raises(UsageError, match="--uniform needs"):
        make_plan(shape, 0.2, constraints=Constraints(uniform=True))


def test_a_pruned_model_can_be_planned_again():
    once = make_plan(MHA, 0.25).target
    twice = make_plan(once, 0.25)
    removed = 1 - twice.target.decoder_parameters / MHA.decoder_parameters
    assert removed == pytest.approx(1 - 0.75**2, abs=0.005)
