"""What a model family is: how its config reads, how its weights are named, what it becomes.

The algorithm never says "llama". It works on canonical tensor names (those of transformers'
Llama) and a :class:`~slimgpt.shape.ModelShape`; an adapter translates its family to both. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from slimgpt.errors import IntegrityError, UsageError
from slimgpt.shape import LayerShape, ModelShape

Config = dict[str, Any]
"""A parsed config.json."""

PER_LAYER = "per_layer_config"


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where a canonical tensor is found: rows ``start:stop`` of a stored one, or all of it."""

    name: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int | None = None


class Family:
    """Adapter of one model family. Subclasses state names and quirks; the rest is shared.

    Attributes:
        model_type: ``model_type`` of the source's config.json.
        architecture: the class named in its ``architectures``.
        pruned_model_type: ``model_type`` of a checkpoint with per-layer widths.
        pruned_architecture: transformers class that loads it (slimgpt.modeling).
    """

    model_type: str
    architecture: str
    pruned_model_type: str
    pruned_architecture: str
    aliases: tuple[str, ...] = ()

    # -- config -> shape ------------------------------------------------------------------------

    def canonical(self, config: Config) -> Config:
        """The config in the terms of a stock transformers class (Baichuan becomes a Llama)."""
        return config

    def shape(self, config: Config) -> ModelShape:
        """Shape of a canonical config, uniform or with ``per_layer_config``.

        Raises:
            IntegrityError: a size is missing, not a positive whole number, or contradicts another.
        """
        heads = whole(config, "num_attention_heads")
        hidden = whole(config, "hidden_size")
        try:
            return ModelShape(
                hidden_size=hidden,
                head_dim=self._head_dim(config, hidden, heads),
                vocab_size=whole(config, "vocab_size"),
                layers=tuple(_layers(config)),
                tied_embeddings=flag(config, "tie_word_embeddings"),
                **self.traits(config),
            )
        except ValueError as reason:
            raise IntegrityError(f"config.json: {reason}") from None

    def traits(self, config: Config) -> dict[str, bool]:
        """Biases and norms of this family, as keyword arguments of ModelShape."""
        return {}

    def _head_dim(self, config: Config, hidden: int, heads: int) -> int:
        if config.get("head_dim") is not None:
            return whole(config, "head_dim")
        if hidden % heads:
            raise ValueError(
                f"hidden_size {hidden} is no multiple of num_attention_heads {heads} and there is "
                "no head_dim"
            )
        return hidden // heads

    # -- shape -> config ------------------------------------------------------------------------

    def pruned_config(self, config: Config, shape: ModelShape) -> Config:
        """config.json of a model of this shape: stock where all layers agree, else per layer."""
        if shape == self.shape(config):
            return dict(config)
        out = self.per_layer_config(config, shape)
        if shape.is_uniform:
            del out[PER_LAYER]
            return self.stock_config(out, shape)
        return out

    def per_layer_config(self, config: Config, shape: ModelShape) -> Config:
        """The config that lists every layer's widths, under our model type.

        The global widths are the largest, which is what readers that know no better should take.
        """
        # A copy to the bottom: transformers writes defaults into the rope entries of what it reads.
        out = {k: deepcopy(v) for k, v in config.items() if k != "auto_map"}
        return out | {
            "model_type": self.pruned_model_type,
            "architectures": [self.pruned_architecture],
            "head_dim": shape.head_dim,
            "num_hidden_layers": len(shape.layers),
            "num_attention_heads": max(x.query_heads for x in shape.layers) or 1,
            "num_key_value_heads": max(x.kv_heads for x in shape.layers) or 1,
            "intermediate_size": max(x.ffn for x in shape.layers) or 1,
            PER_LAYER: _per_layer(shape),
        }

    def stock_config(self, config: Config, shape: ModelShape) -> Config:
        """The config of a uniform model, which any tool loads."""
        return config | {"model_type": self.model_type, "architectures": [self.architecture]}

    def keep_layers(self, config: Config, kept: Sequence[int]) -> Config:
        """The canonical config of the model that has these layers alone.

        Args:
            config: of the whole model.
            kept: numbers of its layers, ascending.
        """
        out = config | {"num_hidden_layers": len(kept)}
        if types := config.get("layer_types"):
            out["layer_types"] = [types[i] for i in kept]
        if overrides := config.get(PER_LAYER):
            places = {layer: place for place, layer in enumerate(kept)}
            digits = len(str(len(kept) - 1))
            out[PER_LAYER] = {
                str(places[int(k)]).zfill(digits): v
                for k, v in overrides.items()
                if int(k) in places
            }
        return out

    def sliding_window(self, config: Config, layer: int) -> int | None:
        """Attention window of a layer in tokens; None sees everything before."""
        return None

    # -- weights --------------------------------------------------------------------------------

    def layer_sources(self, shape: ModelShape, index: int) -> dict[str, WeightSource]:
        """Where each canonical tensor of a layer is stored."""
        prefix = f"model.layers.{index}."
        return {
            name: WeightSource(prefix + name, size)
            for name, size in shape.layer_tensors(shape.layers[index]).items()
        }

    def ignorable(self, name: str, shape: ModelShape) -> bool:
        """Stored tensors that carry no weights: old rotary buffers, the copy of a tied head."""
        return name.endswith("rotary_emb.inv_freq") or (
            shape.tied_embeddings and name == "lm_head.weight"
        )


def _layers(config: Config) -> list[LayerShape]:
    """Widths of every layer, ``per_layer_config`` and its ``skip`` lists applied."""
    count = whole(config, "num_hidden_layers")
    overrides = config.get(PER_LAYER) or {}
    if not isinstance(overrides, dict) or not all(
        str(k).isdigit() and int(k) < count and isinstance(v, dict) for k, v in overrides.items()
    ):
        raise ValueError(f"{PER_LAYER} must map layer numbers below {count} to settings")
    by_layer = {int(k): v for k, v in overrides.items()}
    base = {k: config.get(k) for k in ("num_attention_heads", "num_key_value_heads")}
    base["intermediate_size"] = config.get("intermediate_size")
    return [_layer(base | by_layer.get(i, {})) for i in range(count)]


def _layer(settings: Config) -> LayerShape:
    skip = settings.get("skip", [])
    queries = 0 if "attention" in skip else whole(settings, "num_attention_heads")
    kv = queries
    if queries and settings.get("num_key_value_heads") is not None:
        kv = whole(settings, "num_key_value_heads")
    ffn = 0 if "mlp" in skip else whole(settings, "intermediate_size")
    return LayerShape(queries, kv, ffn)


def _per_layer(shape: ModelShape) -> dict[str, Config]:
    """transformers' ``per_layer_config``: every layer's widths, absent sub-blocks in ``skip``."""
    digits = len(str(len(shape.layers) - 1))
    out: dict[str, Config] = {}
    for i, layer in enumerate(shape.layers):
        entry: Config = {}
        skip = []
        if layer.has_attention:
            entry["num_attention_heads"] = layer.query_heads
            entry["num_key_value_heads"] = layer.kv_heads
        else:
            skip.append("attention")
        if layer.has_ffn:
            entry["intermediate_size"] = layer.ffn
        else:
            skip.append("mlp")
        if skip:
            entry["skip"] = skip
        out[str(i).zfill(digits)] = entry
    return out


def whole(config: Mapping[str, Any], key: str) -> int:
    """A positive whole number of a config.

    Raises:
        IntegrityError: it is missing or something else.
    """
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise IntegrityError(f"config.json: {key} must be a positive whole number, not {value!r}")
    return value


def flag(config: Mapping[str, Any], key: str) -> bool:
    """A true/false setting of a config, false when absent."""
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise IntegrityError(f"config.json: {key} must be true or false, not {value!r}")
    return value


def refuse(reason: str) -> UsageError:
    """The error of an architecture that can't be pruned."""
    return UsageError(
        f"{reason}; supported: Llama 1/2/3, Vicuna, Mistral, Qwen2, Qwen3, Baichuan-7B"
    )
