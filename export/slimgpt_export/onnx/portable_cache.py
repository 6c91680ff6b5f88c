"""A decoder with its KV caches as plain tensors: what the exporter of torch can take."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from slimgpt.errors import UsageError

_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)
"""Cache layers that hold keys and values of past tokens, and nothing else."""

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Widths of the KV cache of a layer.

    Attributes:
        kv_heads: number of heads.
        key_dim: values of a key.
        value_dim: values of a value.
    """

    kv_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class Caches:
    """The KV caches of a model, in the order in which its layers use them.

    Attributes:
        slots: number of each in transformers' cache; there may be gaps.
        shapes: widths of each.
        vocab_size: logits of a position.
    """

    slots: tuple[int, ...]
    shapes: tuple[CacheShape, ...]
    vocab_size: int


def read_caches(model: Any) -> Caches:
    """Finds the caches by running a few tokens.

    Args:
        model: a causal LM of transformers.

    Raises:
        UsageError: the model needs more than a text, or remembers more than keys and values.
    """
    ids, cache = torch.zeros(1, 2, dtype=torch.int64), _Recording()
    try:
        with torch.no_grad():
            own = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
            _require_plain(model, own)
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    except UsageError:
        raise
    except Exception as reason:  # noqa: BLE001 - every class of transformers has its own kinds
        raise UsageError(
            f"--portable: {type(model).__name__} does not run on a text alone: "
            f"{type(reason).__name__}: {' '.join(str(reason).split())[:300]}"
        ) from None
    layers: list[Any] = [cache.layers[slot] for slot in cache.order]
    shapes = (CacheShape(x.keys.shape[1], x.keys.shape[3], x.values.shape[3]) for x in layers)
    return Caches(tuple(cache.order), tuple(shapes), logits.shape[-1])


def _require_plain(model: Any, cache: Any) -> None:
    """Looks at the cache that the model makes for itself."""
    layers = cache.layers if type(cache) is DynamicCache else [cache]
    other = next((type(x).__name__ for x in layers if type(x) not in _PLAIN), None)
    if other:
        raise UsageError(
            f"--portable: {type(model).__name__} remembers more of a text than keys and values "
            f"({'no cache' if cache is None else other}), and the graph has caches for those alone"
        )


class _Recording(DynamicCache):
    """Notes the order in which layers use the cache."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[int] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> KeyValue:
        if layer_idx not in self.order:
            self.order.append(layer_idx)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


class _Past(DynamicLayer):
    """A cache that holds a past already; its length may be a symbol."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        # The stock method asks whether the past is empty, which a traced graph can't branch on.
        assert self.keys is not None
        return self.keys.shape[-2]


class Decoder(nn.Module):
    """A causal LM as a function of tensors.

    Caches grow without end, also those of sliding windows: the mask alone keeps a window, so that
    past and present have one length in all layers. A window counts padding, so that texts of
    different lengths are to be padded on the left where there are windows.

    Args:
        model: a causal LM of transformers.
        caches: as :func:`read_caches` finds them.
    """

    def __init__(self, model: Any, caches: Caches) -> None:
        super().__init__()
        self.decoder, self._slots = model, caches.slots
        self._places = "position_ids" in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch total"],
        position_ids: Int[Tensor, "batch tokens"],
        past: Sequence[KeyValue],
    ) -> tuple[Tensor, list[KeyValue]]:
        """Logits (batch, tokens, vocabulary), and past and new keys and values.

        Args:
            input_ids: new tokens.
            attention_mask: 1 for each token of the past and each new one, 0 for padding.
            position_ids: of the new tokens.
            past: keys and values of each cache, (batch, heads, past tokens, values).
        """
        cache = DynamicCache()
        cache.layers = [DynamicLayer() for _ in range(max(self._slots, default=-1) + 1)]
        for slot, (keys, values) in zip(self._slots, past, strict=True):
            cache.layers[slot] = _Past(keys, values)
        places = {"position_ids": position_ids} if self._places else {}
        output = self.decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **places,
        )
        layers: list[Any] = [cache.layers[slot] for slot in self._slots]
        logits = output.logits.to(self.decoder.dtype)  # some classes give float32 always
        return logits, [(layer.keys, layer.values) for layer in layers]
