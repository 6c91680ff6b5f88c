"""How many layers a ratio stands for, which ones go, and what depth pruning does not take."""

from __future__ import annotations

from typing import Any

import pytest

from slimgpt.errors import UsageError
from slimgpt.families.base import Config
from slimgpt.families.llama import Llama
from slimgpt.families.qwen import Qwen2
from slimgpt.planning import Constraints
from slimgpt.prune.depth import kept_layers
from slimgpt.prune.depth_plan import depth_plan
from slimgpt.prune.options import PruneOptions
from slimgpt.shape import LayerShape, ModelShape

LAYER = LayerShape(8, 2, 96)
MODEL = ModelShape(64, 8, 128, (LAYER,) * 8)


@pytest.mark.parametrize("dropped", range(8))
def test_the_number_of_layers_is_the_nearest_to_the_ratio(dropped: int) -> None:
    for off in (-0.49, 0.0, 0.49):
        ratio = (dropped + off) / 8
        if dropped == 0 and off:
            continue
        plan = depth_plan(MODEL, ratio)
        assert len(plan.target.layers) == 8 - dropped
        assert plan.achieved == pytest.approx(dropped / 8)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (0.05, "--ratio 0.05 with --method depth: a layer is 0.125 of this decoder; give 0.125"),
        (0.0625, "give 0.125 for one, or 0 to remove nothing"),
        (0.96, "the most that can go is 0.875, all layers but one"),
        (1.0, "--ratio 1: give a fraction of at least 0 and below 1"),
        (-0.1, "--ratio -0.1: give a fraction"),
    ],
)
def test_a_ratio_that_no_number_of_layers_comes_to_is_refused(ratio: float, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        depth_plan(MODEL, ratio)
    assert said in str(refused.value)


def test_a_model_whose_layers_differ_is_refused() -> None:
    mixed = MODEL.with_layers((LAYER, LayerShape(8, 2, 95)))
    with pytest.raises(UsageError, match="layers all have the same widths"):
        depth_plan(mixed, 0.5)


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"schedule": "linear"}, "--schedule"),
        ({"first_layer_ratio": 0.1}, "--first-layer-ratio"),
        ({"damping": 0.1}, "--damping"),
        ({"constraints": Constraints(kv_heads="prune")}, "--kv-heads"),
        ({"constraints": Constraints(align=8)}, "--align"),
        ({"constraints": Constraints(tensor_parallel=2)}, "--tensor-parallel"),
        ({"constraints": Constraints(uniform=True)}, "--uniform"),
    ],
)
def test_options_of_widths_are_refused(given: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError) as refused:
        PruneOptions(0.25, "depth", **given)
    assert str(refused.value).endswith(f"changes no width: leave out {flag}")


def test_layers_of_most_influence_stay_in_their_order() -> None:
    assert kept_layers([0.9, 0.1, 0.3, 0.2, 0.8], 3) == [0, 2, 4]
    assert kept_layers([0.2, 0.2, 0.2], 2) == [0, 1]


def test_windows_stay_with_their_layers() -> None:
    config: Config = {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 7}
    kept = Qwen2().keep_layers(config | {"max_window_layers": 2}, [0, 2, 3])
    assert (kept["num_hidden_layers"], kept["max_window_layers"]) == (3, 1)
    unused = {"num_hidden_layers": 4, "use_sliding_window": False, "max_window_layers": None}
    assert Qwen2().keep_layers(unused, [0, 3]) == unused | {"num_hidden_layers": 2}
    kinds = ["full_attention", "sliding_attention"] * 2
    assert Llama().keep_layers(config | {"layer_types": kinds}, [0, 3])["layer_types"] == [
        "full_attention",
        "sliding_attention",
    ]


def test_widths_of_every_layer_stay_with_it() -> None:
    widths = {str(i): {"intermediate_size": 10 + i} for i in range(4)}
    kept = Llama().keep_layers({"num_hidden_layers": 4, "per_layer_config": widths}, [1, 3])
    assert kept["per_layer_config"] == {
        "0": {"intermediate_size": 11},
        "1": {"intermediate_size": 13},
    }
