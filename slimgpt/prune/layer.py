"""Pruning one decoder layer: attention first, then the FFN behind the pruned attention."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from slimgpt import obs
from slimgpt.planning import KvHeads
from slimgpt.prune.activations import Activations
from slimgpt.prune.choose import Method, choose_heads, choose_neurons
from slimgpt.prune.cut import KeptHeads, KeptNeurons, cut_attention, cut_ffn
from slimgpt.prune.forward import LayerForward
from slimgpt.shape import LayerShape, ModelShape

O_PROJ = "self_attn.o_proj.weight"
DOWN_PROJ = "mlp.down_proj.weight"


@dataclass(frozen=True, slots=True)
class Step:
    """What pruning one sub-block did to its outputs on the calibration text.

    Attributes:
        truncated: ||dW X||^2 / ||W X||^2 if the removed columns were only cut off.
        compensated: the same with the weights as they are now, in the stored dtype.
        damping: relative damping used.
        seconds: spent on this sub-block.
    """

    truncated: float
    compensated: float
    damping: float
    seconds: float


@dataclass(frozen=True, slots=True)
class PrunedLayer:
    """Tensors of a pruned layer; a step is None where nothing was removed."""

    tensors: dict[str, Tensor]
    shape: LayerShape
    attention: Step | None
    ffn: Step | None

    def record(self) -> dict[str, Any]:
        """For the log: what was kept and at which error."""
        return {
            "query_heads": self.shape.query_heads,
            "kv_heads": self.shape.kv_heads,
            "ffn": self.shape.ffn,
            "attention": asdict(self.attention) if self.attention else None,
            "mlp": asdict(self.ffn) if self.ffn else None,
        }


@dataclass(frozen=True, slots=True)
class LayerPruner:
    """Prunes layers of one model to the widths of a target shape."""

    forward: LayerForward
    source: ModelShape
    target: ModelShape
    method: Method
    kv_heads: KvHeads
    damping: float

    def prune(self, index: int, tensors: dict[str, Tensor], states: Activations) -> PrunedLayer:
        """Prunes layer ``index`` and moves the activations through it.

        Args:
            index: number of the layer.
            tensors: its canonical tensors as stored.
            states: its inputs, from the pruned layers before; replaced by its pruned outputs.
        """
        tensors, middle, attention = self._prune_attention(index, tensors, states)
        self._run(index, middle, tensors).attend(states)
        tensors, after, ffn = self._prune_ffn(index, middle, tensors, states)
        self._run(index, after, tensors).feed(states)
        return PrunedLayer(tensors, after, attention, ffn)

    def replay(self, index: int, tensors: Mapping[str, Tensor], states: Activations) -> None:
        """Moves the activations through a layer that is pruned already, exactly as prune did."""
        layer = self._run(index, self.target.layers[index], tensors)
        layer.attend(states)
        layer.feed(states)

    def _run(self, index: int, shape: LayerShape, tensors: Mapping[str, Tensor]) -> Any:
        layers = list(self.source.layers)
        layers[index] = shape
        return self.forward.layer(self.source.with_layers(tuple(layers)), index, tensors)

    def _prune_attention(
        self, index: int, tensors: dict[str, Tensor], states: Activations
    ) -> tuple[dict[str, Tensor], LayerShape, Step | None]:
        layer, target = self.source.layers[index], self.target.layers[index]
        if layer.query_heads == target.query_heads:
            return tensors, layer, None
        started, head_dim = time.monotonic(), self.source.head_dim
        if target.has_attention:
            H = self._run(index, layer, tensors).head_gram(states)
            W = tensors[O_PROJ].to(H.device)
            kept, damping = choose_heads(
                self.method, W, H, layer, target, head_dim, self.kv_heads, self.damping
            )
            step = _step(W, kept.output, H, damping, started)
        else:
            kept, step = KeptHeads((), ()), None
        return *cut_attention(tensors, layer, kept, head_dim), step

    def _prune_ffn(
        self, index: int, layer: LayerShape, tensors: dict[str, Tensor], states: Activations
    ) -> tuple[dict[str, Tensor], LayerShape, Step | None]:
        target = self.target.layers[index]
        if layer.ffn == target.ffn:
            return tensors, layer, None
        started = time.monotonic()
        if target.has_ffn:
            H = self._run(index, layer, tensors).neuron_gram(states)
            W = tensors[DOWN_PROJ].to(H.device)
            kept, damping = choose_neurons(self.method, W, H, layer.ffn - target.ffn, self.damping)
            step = _step(W, kept.down, H, damping, started)
        else:
            kept, step = KeptNeurons(()), None
        return *cut_ffn(tensors, layer, kept), step


def _step(W: Tensor, after: Tensor | None, H: Tensor, damping: float, started: float) -> Step:
    """Errors relative to the output of the sub-block, in float32: they are for reading."""
    assert after is not None
    before = W.float()
    whole = obs.output_error(before, H)
    removed = (after == 0).all(dim=0).nonzero()[:, 0]
    truncated = obs.output_error(before[:, removed], H[removed][:, removed])
    compensated = obs.output_error(after.to(W.dtype).float() - before, H)
    scale = 1 / whole if whole else 0.0
    return Step(truncated * scale, compensated * scale, damping, time.monotonic() - started)
