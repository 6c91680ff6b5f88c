"""Decoding with a KV cache equals reading the text at once, whatever sub-blocks a layer lacks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.shape import LayerShape
from tests.masking import masked
from tests.tiny_models import FFN, LENGTH, Tiny, assert_same, load, logits, random_ids

TEXT = random_ids(2, LENGTH, seed=1)
PREFILL = 9
PADDING = 5

FAMILIES = [
    "llama-mha",
    "llama-biases",
    "mistral-window",
    "qwen2-windows",
    "qwen3-windows",
]
LACKING = {
    "nothing": [],
    "attention-first": [(0, "attention")],
    "attention-last": [(3, "attention")],
    "ffn": [(0, "mlp"), (2, "mlp")],
    "attention-everywhere": [(i, "attention") for i in range(4)],
    "both": [(0, "attention"), (0, "mlp"), (2, "attention"), (2, "mlp"), (3, "mlp")],
}

every_family = pytest.mark.parametrize("name", FAMILIES)
every_lack = pytest.mark.parametrize("lack", LACKING)


def cut(tiny: Tiny, name: str, lacking: list[tuple[int, str]]) -> Path:
    """A family pruned to different widths in each layer, some sub-blocks absent."""
    source = tiny.dense(name).path
    layers = []
    for i, layer in enumerate(Checkpoint(source).shape.layers):
        step = layer.kv_heads  # "keep" takes one query head of each group, "prune" whole groups
        if layer.group_size > 1:
            heads = (layer.query_heads - step * (i % 2), layer.kv_heads)
        else:
            heads = (layer.query_heads - i, layer.kv_heads - i)
        heads = (0, 0) if (i, "attention") in lacking else heads
        layers.append(LayerShape(*heads, 0 if (i, "mlp") in lacking else FFN - 11 * i))
    return tiny.pruned(source, layers=tuple(layers))


@torch.no_grad()
def stepwise(model: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits with a cache: a prefill, one token, several at once, then one by one.

    Positions are not passed: the model has to know them from the cache.
    """
    ends = [PREFILL, PREFILL + 1, PREFILL + 4, *range(PREFILL + 5, ids.shape[1] + 1)]
    start, cache, parts = 0, None, []
    for end in ends:
        seen = None if mask is None else mask[:, :end]
        step = model(ids[:, start:end], attention_mask=seen, past_key_values=cache, use_cache=True)
        start, cache = end, step.past_key_values
        parts.append(step.logits)
    return torch.cat(parts, dim=1)


def greedy(model: Any, ids: Tensor, count: int) -> Tensor:
    """The likeliest continuation, the whole text read anew for each token."""
    for _ in range(count):
        ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], dim=1)
    return ids


def left_padded(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The second text shorter than the first, padded in front; ids and attention mask."""
    ids, mask = ids.clone(), torch.ones_like(ids)
    ids[1, :PADDING], mask[1, :PADDING] = 0, 0
    return ids, mask


@every_lack
@every_family
def test_absent_sub_blocks_equal_masked_ones(tiny: Tiny, name: str, lack: str) -> None:
    out = cut(tiny, name, LACKING[lack])
    assert_same(logits(load(out), TEXT), logits(masked(tiny.dense(name).reference, out), TEXT))


@every_lack
@every_family
def test_forward_with_cache_equals_without(tiny: Tiny, name: str, lack: str) -> None:
    model = load(cut(tiny, name, LACKING[lack]))
    assert_same(stepwise(model, TEXT), logits(model, TEXT))


@every_lack
@every_family
def test_left_padding_changes_nothing(tiny: Tiny, name: str, lack: str) -> None:
    model = load(cut(tiny, name, LACKING[lack]))
    ids, mask = left_padded(TEXT)
    batch, alone = stepwise(model, ids, mask), logits(model, TEXT[1:, PADDING:])
    assert_same(batch[0], logits(model, TEXT[:1])[0])
    assert_same(batch[1, PADDING:], alone[0])


@every_lack
@every_family
@pytest.mark.parametrize("cache", [None, "static"], ids=["dynamic", "static"])
def test_generate_equals_greedy_without_cache(
    tiny: Tiny, name: str, lack: str, cache: str | None
) -> None:
    model = load(cut(tiny, name, LACKING[lack]))
    ids, mask = left_padded(TEXT[:, :12])
    count = 10
    made = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        cache_implementation=cache,
    )
    assert torch.equal(made[:1], greedy(model, TEXT[:1, :12], count))
    assert torch.equal(made[1:, PADDING:], greedy(model, TEXT[1:, PADDING:12], count))
