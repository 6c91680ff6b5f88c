"""Which stock class a model becomes, and the widths it is padded to where it fits none. No torch.

A stock class has one width for all layers, and takes some head counts only:

* ``LlamaConfig`` wants a divisor of ``hidden_size``; ``MistralConfig`` takes any, without biases;
* vLLM's Qwen2 computes ``head_dim`` as ``hidden_size // heads``, whatever config.json says. A Qwen2
  with other heads is a Llama with biases, whose output bias is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import UsageError
from slimgpt.families import Config, Family
from slimgpt.families.base import PER_LAYER
from slimgpt.families.llama import Llama
from slimgpt.families.qwen import Qwen2
from slimgpt.shape import LayerShape, ModelShape

_WINDOWS = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
_VLLM_ALONE = {"bias", "qkv_bias", "logit_scale", "target_layer_count"}
_VLLM_ALONE |= {"llama_4_scaling", "ada_rms_norm_t_cond", "qk_norm"}
"""What vLLM's classes read of any config.json, and transformers' do not."""
_QWEN2_UNSAID = {"max_position_embeddings": 32768, "bos_token_id": None, "eos_token_id": None}
"""What Qwen2Config takes where the file says nothing, and LlamaConfig takes otherwise."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A stock checkpoint to be written.

    Attributes:
        config: its config.json.
        family: adapter of its class.
        source: shape of the model that it is made of.
        shape: of the stock model; the same function, padded by zeros.
        copied: it is stock already; the weights stay as they are, and so does the config, but for
            what vLLM alone would read.
    """

    config: Config
    family: Family
    source: ModelShape
    shape: ModelShape
    copied: bool

    @property
    def padded(self) -> bool:
        return self.shape.layers != self.source.layers

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])


@dataclass(frozen=True, slots=True)
class _Route:
    """A family that can hold the model: its config and traits, but for the widths."""

    family: Family
    config: Config
    shape: ModelShape

    def config_of(self, shape: ModelShape) -> Config:
        """The stock config of a uniform shape whose head count the class takes."""
        config = self.family.per_layer_config(self.config, shape)
        del config[PER_LAYER]
        return self.family.stock_config(config, shape)

    def takes(self, query_heads: int) -> bool:
        """Whether the stock class takes a head count."""
        shape = self.shape.with_layers((LayerShape(query_heads, query_heads, 1),))
        ours = self.family.pruned_model_type
        return bool(self.family.stock_config({"model_type": ours}, shape)["model_type"] != ours)


def plan_layout(meta: ConfigOnly) -> Layout:
    """The cheapest stock model that holds a checkpoint: fewest parameters, then fewest KV heads.

    Raises:
        UsageError: there is none, or stock vLLM would not serve it or would serve another function.
    """
    _require_servable(meta)
    shape = meta.shape
    for present, block in (
        (any(x.has_attention for x in shape.layers), "attention"),
        (any(x.has_ffn for x in shape.layers), "a feed-forward block"),
    ):
        if not present:
            raise UsageError(
                f"no layer of {meta.directory} has {block}, and no stock class goes without: serve "
                "it as it is with slimgpt's vLLM plugin"
            )
    ffn = max(layer.ffn for layer in shape.layers)
    found: list[tuple[int, int, int, _Route, LayerShape]] = []
    for rank, route in enumerate(_routes(meta)):
        for kv_heads, group in _head_counts(route):
            layer = LayerShape(kv_heads * group, kv_heads, ffn)
            found.append((route.shape.layer_parameters(layer), kv_heads, rank, route, layer))
    if not found:
        raise UsageError(
            f"{meta.directory}: no head count of {meta.family.architecture} holds its layers with "
            "their biases and windows; serve it as it is with slimgpt's vLLM plugin"
        )
    _, _, _, route, layer = min(found, key=lambda entry: entry[:3])
    return _layout(meta, route, route.shape.with_layers((layer,) * len(shape.layers)))


def query_slots(layer: LayerShape, group: int) -> list[int]:
    """Where each query head of a layer goes in a model of ``group`` query heads a KV head.

    A KV head that serves more is there several times: :func:`copies` of it in a row.

    >>> query_slots(LayerShape(6, 2, 1), 2)
    [0, 1, 2, 4, 5, 6]
    """
    times = copies(layer, group)
    return [
        (head // layer.group_size * times + head % layer.group_size // group) * group
        + head % layer.group_size % group
        for head in range(layer.query_heads)
    ]


def copies(layer: LayerShape, group: int) -> int:
    """How often each KV head of a layer stands in a model of ``group`` query heads a KV head."""
    return -(-layer.group_size // group)


def _routes(meta: ConfigOnly) -> Iterator[_Route]:
    yield _Route(meta.family, meta.config, meta.shape)
    if isinstance(meta.family, Qwen2) and _windows(meta) == {None}:
        config = {k: v for k, v in meta.config.items() if k not in _WINDOWS}
        config = _QWEN2_UNSAID | config | {"attention_bias": True, "mlp_bias": False}
        yield _Route(Llama(), config, replace(meta.shape, output_bias=True))


def _head_counts(route: _Route) -> Iterator[tuple[int, int]]:
    """(KV heads, query heads a KV head) that hold every layer, the fewest of each group size.

    A group larger than the largest of the model can pay only where the class takes few head counts,
    and only while its queries alone cost less than what was found: a hidden size of millions, which
    a stranger's config may have, is not counted through.
    """
    shape = route.shape
    attending = [layer for layer in shape.layers if layer.has_attention]
    largest = max(layer.group_size for layer in attending)
    cheapest: int | None = None
    for group in range(1, shape.hidden_size + 1):
        least = max(layer.kv_heads * copies(layer, group) for layer in attending)
        cost = shape.layer_parameters(LayerShape(least * group, least, 0))
        if cheapest is not None and group > largest and cost > cheapest:
            return
        for kv_heads in range(least, max(least, shape.hidden_size // group) + 1):
            if route.takes(kv_heads * group):
                cost = shape.layer_parameters(LayerShape(kv_heads * group, kv_heads, 0))
                cheapest = cost if cheapest is None else min(cheapest, cost)
                yield kv_heads, group
                break


def _layout(meta: ConfigOnly, route: _Route, shape: ModelShape) -> Layout:
    config = route.config_of(shape)
    same_class = config["model_type"] == meta.config["model_type"] and PER_LAYER not in meta.config
    copied = shape == meta.shape and same_class
    if copied:
        config = dict(meta.config)
    else:
        # transformers warns of Mistral tokenizers beside a config of an older version of its own.
        config["transformers_version"] = version("transformers")
    if config["model_type"] == Llama.model_type:
        # transformers' Llama knows no windows, and vLLM's takes one that was left in the file.
        config = {k: v for k, v in config.items() if k not in _WINDOWS}
    config = {k: v for k, v in config.items() if k not in _VLLM_ALONE}
    return Layout(config, route.family, meta.shape, shape, copied)


def _windows(meta: ConfigOnly) -> set[int | None]:
    return {
        meta.family.sliding_window(meta.config, index) for index in range(len(meta.shape.layers))
    }


def _require_servable(meta: ConfigOnly) -> None:
    """Refuses what stock vLLM refuses or, worse, serves as another function (vLLM 0.32)."""
    activation = meta.config.get("hidden_act", "silu")
    if activation != "silu":
        reason = f"has hidden_act {activation}, and stock vLLM takes silu alone"
    elif len(_windows(meta)) > 1:
        reason = "has sliding windows on some layers alone, which stock vLLM refuses or ignores"
    elif meta.shape.qk_norm and meta.shape.output_bias:
        reason = "has attention_bias, of which stock vLLM's Qwen3 lacks the output's"
    else:
        return
    raise UsageError(
        f"{meta.directory} {reason}: it can't be exported as stock; load it with transformers as "
        "it is"
    )
