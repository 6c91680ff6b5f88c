"""How large the KV cache of an ONNX server is."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt_serve.onnx_runtime.artefact import OnnxArtefact
from slimgpt_serve.openai_api.room import SHARE, find_room

WEIGHTS, CONTEXT, A_TOKEN = 10_000, 100, 2 * 16 * (2 + 3) * 4


def _artefact(kv_heads: tuple[int, ...] = (2, 3)) -> OnnxArtefact:
    return OnnxArtefact(
        directory=Path("dir"),
        model=Path("dir/model.onnx"),
        version="0",
        source="",
        precision="fp32",
        dtype="float32",
        shape={},
        head_dim=16,
        kv_heads=kv_heads,
        vocabulary=9,
        context_length=CONTEXT,
        eos=frozenset(),
        cache="in_place",
        weight_bytes=WEIGHTS,
    )


def _free(kv_tokens: int) -> int:
    """Free memory that holds the weights and exactly so many tokens."""
    return -int(-(WEIGHTS + kv_tokens * A_TOKEN) // SHARE)


def test_without_a_wish_every_slot_has_the_models_context():
    room = find_room(_artefact(), None, 4, 2**40)
    assert (room.capacity, room.kv_tokens) == (CONTEXT, 4 * CONTEXT)
    assert room.kv_bytes == 4 * CONTEXT * A_TOKEN
    assert room.notes == ()


def test_without_a_wish_the_context_is_the_longest_that_fits():
    room = find_room(_artefact(), None, 4, _free(4 * 30))
    assert room.capacity == room.longest == 30
    assert room.notes == (
        "the context is 30 tokens, the longest that fits the memory; the model takes 100",
    )
    assert "note: the context is 30" in room.table()


def test_a_wish_is_met_where_it_fits():
    room = find_room(_artefact(), 20, 4, _free(4 * 30))
    assert (room.capacity, room.longest, room.notes) == (20, 30, ())
    assert room.to_json()["context"] == 20


def test_memory_that_is_not_known_is_tried():
    assert find_room(_artefact(), None, 4, None).capacity == CONTEXT


def test_a_model_without_attention_needs_no_cache():
    room = find_room(_artefact(()), None, 4, _free(1))
    assert (room.capacity, room.kv_bytes) == (CONTEXT, 0)


@pytest.mark.parametrize("wanted", [1, CONTEXT + 1])
def test_a_context_that_the_model_does_not_take_is_refused(wanted):
    with pytest.raises(UsageError) as refused:
        find_room(_artefact(), wanted, 4, None)
    assert str(refused.value) == f"--max-model-len {wanted}: give 2 to 100, the context of MODEL"


def test_a_context_that_does_not_fit_is_refused_with_what_does():
    with pytest.raises(EnvironmentProblem) as refused:
        find_room(_artefact(), 31, 4, _free(4 * 30))
    assert str(refused.value) == (
        "the model needs 9.8 KiB of weights and 77.5 KiB of KV cache (4 texts of 31 tokens), and "
        "84.8 KiB may be used: give a --max-model-len of at most 30, give a smaller "
        "--max-concurrency, or use a larger machine"
    )


def test_a_model_larger_than_the_memory_is_refused():
    with pytest.raises(EnvironmentProblem) as refused:
        find_room(_artefact(), None, 1, 5000)
    assert "may be used: use a larger machine" in str(refused.value)
