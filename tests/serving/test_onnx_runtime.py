"""Real exports on ONNX Runtime: the tokens of transformers, however texts share the buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from slimgpt.errors import UsageError
from slimgpt.shape import LayerShape
from slimgpt_serve.onnx_runtime import concatenated, runner
from slimgpt_serve.onnx_runtime.concatenated import ConcatenatedRunner
from slimgpt_serve.onnx_runtime.generator import Completion, Engine, generate, runner_of
from slimgpt_serve.onnx_runtime.runner import Runner
from slimgpt_serve.onnx_runtime.sampling import SamplingOptions
from slimgpt_serve.onnx_runtime.session import OnnxSession
from tests.onnx_exports import Exports, opened
from tests.tiny_models import Tiny, load, random_ids

ABSENT = (LayerShape(0, 0, 40), LayerShape(4, 4, 96), LayerShape(8, 8, 0), LayerShape(3, 3, 17))
MODELS: dict[str, Callable[[Tiny], Path]] = {
    "dense": lambda tiny: tiny.dense("llama-mha").path,
    "pruned": lambda tiny: tiny.pruned(tiny.dense("llama-mha").path, 0.5),
    "grouped heads": lambda tiny: tiny.pruned(tiny.dense("qwen2").path, 0.3, kv_heads="prune"),
    "window": lambda tiny: tiny.dense("mistral-window").path,
    "norms of heads": lambda tiny: tiny.pruned(tiny.dense("qwen3").path, 0.3),
    "absent blocks": lambda tiny: tiny.pruned(tiny.dense("llama-mha").path, layers=ABSENT),
}
LENGTHS = (5, 1, 12, 3, 9)
CAPACITY, NEW = 40, 20
GREEDY = SamplingOptions()


class Ids:
    """A decoder for models without a tokenizer: each token is a character."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(0x4E00 + i) for i in ids)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def session(exports: Exports, tiny: Tiny) -> OnnxSession:
    """Of the pruned model."""
    return opened(exports.make(MODELS["pruned"](tiny)).out)


def prompts() -> list[list[int]]:
    return [random_ids(length, seed=i).tolist() for i, length in enumerate(LENGTHS)]


def continued(
    engine: Engine, texts: Sequence[Sequence[int]], options: SamplingOptions = GREEDY
) -> list[Completion]:
    return generate(engine, Ids(), texts, options, max_new_tokens=NEW)


def by_transformers(model: Any, prompt: list[int]) -> tuple[int, ...]:
    """Tokens that transformers' own greedy search adds."""
    ids = torch.tensor([prompt])
    settings = GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    model.generation_config = settings
    found = model.generate(ids, attention_mask=torch.ones_like(ids))[0, len(prompt) :]
    return tuple(found.tolist())


@pytest.mark.parametrize("model", MODELS)
def test_greedy_text_is_that_of_transformers(exports: Exports, tiny: Tiny, model: str) -> None:
    path = MODELS[model](tiny)
    engine = runner_of(opened(exports.make(path).out), CAPACITY, slots=2)
    reference = load(path, torch.float32)
    found = continued(engine, prompts())
    assert [x.tokens for x in found] == [by_transformers(reference, p) for p in prompts()]
    assert {x.finish_reason for x in found} == {"length"}
    assert found[0].text == Ids().decode(found[0].tokens)


@pytest.mark.slow
def test_a_portable_export_writes_the_same(
    exports: Exports, tiny: Tiny, session: OnnxSession
) -> None:
    portable = opened(exports.make(MODELS["pruned"](tiny), portable=True).out)
    engine = runner_of(portable, CAPACITY, slots=4)
    assert isinstance(engine, ConcatenatedRunner)
    assert engine.slots == 1
    assert continued(engine, prompts()) == continued(Runner(session, CAPACITY, 3), prompts())
    with pytest.raises(UsageError, match="3 tokens of slot 0 can't be gone on from"):
        engine.prefill(0, [5], 3)
    with pytest.raises(UsageError, match="one sequence at a time, not 2"):
        engine.decode([5, 6], [1, 1])


# -- several texts at once -------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2, 5, 8])
def test_texts_of_all_lengths_are_what_they_are_alone(session: OnnxSession, slots: int) -> None:
    alone = [continued(Runner(session, CAPACITY, 1), [prompt])[0] for prompt in prompts()]
    assert continued(Runner(session, CAPACITY, slots), prompts()) == alone


def test_draws_do_not_depend_on_what_runs_beside(session: OnnxSession) -> None:
    engine = Runner(session, CAPACITY, 4)
    options = SamplingOptions(temperature=1.5, top_k=50, top_p=0.95, seed=7)
    together = continued(engine, prompts(), options)
    assert together == [continued(engine, [prompt], options)[0] for prompt in prompts()]
    other = SamplingOptions(temperature=1.5, top_k=50, top_p=0.95, seed=8)
    assert continued(engine, prompts(), other) != together


def test_texts_that_end_early_make_room(session: OnnxSession) -> None:
    engine = Runner(session, CAPACITY, 2)
    plain = continued(engine, prompts())
    ends = frozenset(x.tokens[i] for i, x in enumerate(plain))  # at 1, 2, 3, 4 and 5 tokens
    told: list[tuple[int, str]] = []
    found = generate(
        engine,
        Ids(),
        prompts(),
        GREEDY,
        max_new_tokens=NEW,
        eos=ends,
        on_text=lambda number, piece: told.append((number, piece)),
    )
    for number, (short, whole) in enumerate(zip(found, plain, strict=True)):
        count = len(short.tokens)
        assert short.finish_reason == "stop"
        assert short.tokens == whole.tokens[:count]
        assert set(short.tokens) & ends == {short.tokens[-1]}
        assert short.text == Ids().decode(short.tokens[:-1])
        assert "".join(piece for of, piece in told if of == number) == short.text


def test_the_capacity_ends_a_text(session: OnnxSession) -> None:
    found = continued(Runner(session, 12, 2), [[5] * 4, [5] * 11])
    assert [(len(x.tokens), x.finish_reason) for x in found] == [(8, "length"), (1, "length")]
    says = r"PROMPT has 12 tokens, and the capacity is 12 tokens .* model's context of 64"
    with pytest.raises(UsageError, match=says):
        continued(Runner(session, 12, 2), [[5], [5] * 12])
    with pytest.raises(UsageError, match="PROMPT is empty"):
        continued(Runner(session, 12, 2), [[]])


# -- the buffers -----------------------------------------------------------------------------------


def steps(engine: Runner, slot: int, tokens: Sequence[int], past: int) -> NDArray[np.float32]:
    """Logits (tokens, vocabulary) of one slot, a token at a time."""
    return np.stack([engine.prefill(slot, [t], past + i) for i, t in enumerate(tokens)])


def close(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("model", ["pruned", "window", "absent blocks"])
def test_a_prompt_in_chunks_is_the_whole_prompt(
    exports: Exports, tiny: Tiny, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exports.make(MODELS[model](tiny)).out
    portable = exports.make(MODELS["pruned"](tiny), portable=True).out
    ids = random_ids(30, seed=3).tolist()
    engines = Runner(opened(made), CAPACITY, 2), ConcatenatedRunner(opened(portable), CAPACITY)
    for engine in engines:
        with monkeypatch.context() as patch:
            whole = engine.prefill(0, ids)
            for chunk in (1, 7, 29):
                patch.setattr(runner, "PREFILL_CHUNK", chunk)
                patch.setattr(concatenated, "PREFILL_CHUNK", chunk)
                close(engine.prefill(0, ids), whole)
    engine = engines[0]
    whole = engine.prefill(0, ids)
    engine.prefill(1, ids[:11])
    close(engine.prefill(1, ids[11:], past=11), whole)


def test_keys_and_values_stay_where_they_are(session: OnnxSession) -> None:
    engine = Runner(session, CAPACITY, 3)
    pointers = engine.cache.pointers
    assert len(set(pointers)) == 2 * len(session.artefact.kv_heads)
    assert engine.kv_bytes == session.artefact.kv_bytes(CAPACITY, 3)
    continued(engine, prompts())
    assert engine.cache.pointers == pointers
    # What was written is in the buffers themselves: nothing was kept elsewhere.
    engine.prefill(0, prompts()[0])
    before = engine.decode([5], [LENGTHS[0]])
    for buffer in engine.cache._buffers:
        assert buffer.memory.array is not None
        buffer.memory.array[:] = 0
    assert not np.allclose(engine.decode([5], [LENGTHS[0]]), before)


def test_nothing_of_a_longer_text_is_left_for_the_next(session: OnnxSession) -> None:
    engine, fresh = Runner(session, CAPACITY, 2), Runner(session, CAPACITY, 2)
    engine.prefill(1, random_ids(CAPACITY, seed=9).tolist())
    assert np.array_equal(engine.prefill(1, [5, 6, 7]), fresh.prefill(1, [5, 6, 7]))
    assert np.array_equal(engine.prefill(1, [8], 3), fresh.prefill(1, [8], 3))


@pytest.mark.parametrize("on_device", [False, True])
def test_a_moved_text_goes_on_as_before(
    session: OnnxSession, on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Runner(session, CAPACITY, 3)
    if on_device:  # as on a GPU, where memory is no array
        monkeypatch.setattr(
            engine.cache, "move", lambda source, target, _: copied(engine, source, target)
        )
    ids = random_ids(12, seed=1).tolist()
    engine.prefill(0, [9] * 20)
    engine.prefill(1, [8] * 20)
    engine.prefill(2, ids)
    neighbour = steps(engine, 1, [3, 4], 20)
    expected = steps(engine, 2, [3, 4, 5], 12)
    engine.move(2, 0, 12)
    close(steps(engine, 0, [3, 4, 5], 12), expected)
    close(steps(engine, 1, [3, 4], 20), neighbour)


def copied(engine: Runner, source: int, target: int) -> None:
    for buffer in engine.cache._buffers:
        engine.cache._copy_on_device(buffer, source, target)


def test_repeating_a_step_changes_nothing(session: OnnxSession) -> None:
    """What a server does when one row of a batch is no number."""
    engine = Runner(session, CAPACITY, 2)
    engine.prefill(0, [5, 6])
    engine.prefill(1, [7, 8, 9])
    first = engine.decode([3, 4], [2, 3])
    assert np.array_equal(engine.decode([3, 4], [2, 3]), first)
    close(engine.decode([3], [2])[0], first[0])


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_other_precisions_give_logits_in_float32(
    exports: Exports, tiny: Tiny, session: OnnxSession, precision: str
) -> None:
    other = opened(exports.make(MODELS["pruned"](tiny), precision).out)
    assert other.artefact.dtype == ("float16" if precision == "fp16" else "float32")
    engine = Runner(other, CAPACITY, 2)
    whole = engine.prefill(1, [5, 6, 7, 8])
    assert whole.dtype == np.float32
    # int8 activations are rounded by token, or by block of tokens.
    expected = Runner(session, CAPACITY, 1).prefill(0, [5, 6, 7, 8])
    apart = {"fp16": 0.02, "int8": 0.3, "int4": 2.0}[precision]
    assert np.abs(whole - expected).max() < apart * expected.std()
    assert len(continued(engine, prompts())) == len(prompts())
