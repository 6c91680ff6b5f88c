"""What a replica holds: exact per layer, as the server computes it, and refused where it can't."""

from pathlib import Path

import pytest

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.shape import LayerShape
from slimgpt_bench.accelerators import find
from slimgpt_bench.artefact import Artefact, describe
from slimgpt_bench.capacity.replica import Wishes, replica_of
from tests.capacity_plans import LLAMA_8B, PRUNED_8B, write_checkpoint


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return describe(write_checkpoint(tmp_path_factory.mktemp("m") / "dense", LLAMA_8B))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return describe(write_checkpoint(tmp_path_factory.mktemp("m") / "pruned", PRUNED_8B))


def test_kv_bytes_of_a_token_are_those_of_every_layer(dense: Artefact) -> None:
    found = replica_of(dense, find("h100"), Wishes())
    assert found.held.kv_bytes_per_token == 2 * 128 * 8 * 32 * 2
    assert found.held.weight_bytes == LLAMA_8B.weight_bytes(2)


def test_tokens_in_the_cache_are_near_those_that_vllm_measured(dense: Artefact) -> None:
    """llm-d measured 420 905 on an H100 for this model (51.38 GiB of KV cache)."""
    found = replica_of(dense, find("h100"), Wishes())
    assert found.kv_tokens == pytest.approx(420_905, rel=0.07)


def test_memory_is_shared_out_to_the_last_byte(dense: Artefact) -> None:
    accelerator = find("h100")
    found = replica_of(dense, accelerator, Wishes(utilization=0.8))
    whole = found.held.weight_bytes + found.held.activation_bytes + found.kv_bytes
    assert whole == int(accelerator.memory_bytes * 0.8)
    assert found.kv_tokens * found.held.kv_bytes_per_token <= found.kv_bytes


def test_pruning_whole_groups_brings_more_tokens_than_it_frees_weights(
    dense: Artefact, pruned: Artefact
) -> None:
    ours, theirs = (replica_of(x, find("h100"), Wishes()) for x in (pruned, dense))
    assert ours.kv_tokens / theirs.kv_tokens > 8 / 6


def test_two_devices_hold_half_of_each_layer(dense: Artefact) -> None:
    found = replica_of(dense, find("l4"), Wishes(degree=2))
    assert found.shape.layers[0] == LayerShape(16, 4, 7168)
    assert found.held.kv_bytes_per_token == 2 * 128 * 4 * 32 * 2


def test_a_model_that_does_not_fit_names_what_is_needed_and_a_way_out(dense: Artefact) -> None:
    told = (
        r"dense needs 15.0 GiB of weights and about .* of activations, and --utilization 0.7 of "
        r"l4 is 15.4 GiB, which leaves no KV cache: give --tensor-parallel 2, or a larger "
        r"--accelerator"
    )
    with pytest.raises(EnvironmentProblem, match=told):
        replica_of(dense, find("l4"), Wishes(utilization=0.7))


def test_a_model_that_fits_no_number_of_devices_says_so(dense: Artefact) -> None:
    with pytest.raises(EnvironmentProblem, match="prune it more, quantise it, or give a larger"):
        replica_of(dense, find("l4"), Wishes(utilization=0.01))


def test_devices_that_a_layer_can_t_be_split_over_are_refused(pruned: Artefact) -> None:
    with pytest.raises(UsageError, match="--tensor-parallel 4 does not divide layer 0"):
        replica_of(pruned, find("l4"), Wishes(degree=4))


def test_sequences_are_the_server_s_or_the_user_s(dense: Artefact) -> None:
    assert replica_of(dense, find("h100"), Wishes()).sequences == 1024
    assert replica_of(dense, find("l4"), Wishes()).sequences == 256
    assert replica_of(dense, find("h100"), Wishes(sequences=7)).sequences == 7


def test_every_number_is_labelled(dense: Artefact) -> None:
    told = replica_of(dense, find("h100"), Wishes()).to_json()
    numbers = [x for x in told.values() if isinstance(x, dict)]
    assert len(numbers) == 6
    for number in numbers:
        assert number["label"] in ("measured", "modelled", "assumed")
        assert number["unit"]
        assert number["source"]


def test_a_model_keeps_its_place(dense: Artefact, tmp_path: Path) -> None:
    """Planning reads headers alone: the weights are a hole."""
    assert sum(x.stat().st_blocks for x in dense.directory.iterdir()) * 512 < 2**20
