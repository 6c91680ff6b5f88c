"""Runs the two sub-blocks of one decoder layer over all calibration windows, in place.

The paper runs each layer three times: for the inputs of o_proj, for those of down_proj behind the
pruned attention, and for the outputs. Here the residual stream is overwritten after the attention,
so that each sub-block runs twice and the layer no more than two times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimgpt.families import Config, Family
from slimgpt.modeling import ARCHITECTURES, build_layer, without_layers
from slimgpt.prune.activations import Activations
from slimgpt.shape import ModelShape


class LayerForward:
    """Builds decoder layers at given shapes and runs them on activations of one length.

    Args:
        family: adapter of the model.
        config: its canonical config.
        tokens: length of every window.
        device: where to compute.
        dtype: what to compute in.
    """

    def __init__(
        self, family: Family, config: Config, tokens: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._family, self._config, self._tokens = family, config, tokens
        self._device, self._dtype = device, dtype
        self._architecture = ARCHITECTURES[family.pruned_model_type]
        self._positions = self._position_embeddings()
        self._masks: dict[int | None, Tensor | None] = {}

    def layer(self, shape: ModelShape, index: int, tensors: Mapping[str, Tensor]) -> Layer:
        """Layer ``index`` of a model of this shape, holding these canonical tensors."""
        config = self._transformers_config(shape)
        with torch.device("meta"):
            module = build_layer(self._architecture.model.layer_class, config, index, 0)
        # Copied even where nothing changes: a tensor mapped from a file may lie at any address, on
        # which the last bits of a CPU's products depend, and a resumed run reads another file.
        weights = {k: v.to(self._device, self._dtype, copy=True) for k, v in tensors.items()}
        module.load_state_dict(weights, strict=True, assign=True)
        module.requires_grad_(False).eval()
        window = self._family.sliding_window(self._config, index)
        return Layer(module, self._positions, self._mask(window))

    def _transformers_config(self, shape: ModelShape) -> Any:
        values = self._family.per_layer_config(self._config, shape)
        config = self._architecture.config.from_dict(values)
        config._attn_implementation_internal = "sdpa"
        return config

    def _position_embeddings(self) -> tuple[Tensor, Tensor]:
        shape = self._family.shape(self._config)
        # Some rope scalings read num_attention_heads, which a pruned model has one of a layer.
        config = without_layers(self._transformers_config(shape))
        rotary = self._architecture.rotary(config).to(self._device)
        carrier = torch.zeros(1, dtype=self._dtype, device=self._device)
        positions = torch.arange(self._tokens, device=self._device)[None]
        cos, sin = rotary(carrier, positions)
        return cos, sin

    def _mask(self, window: int | None) -> Tensor | None:
        """None: plain causal attention. A window shorter than the text needs a mask."""
        if window is None or window >= self._tokens:
            return None
        if window not in self._masks:
            place = torch.arange(self._tokens, device=self._device)
            behind = place[:, None] - place[None, :]
            self._masks[window] = ((behind >= 0) & (behind < window))[None, None]
        return self._masks[window]


class Layer:
    """One decoder layer ready to run."""

    def __init__(
        self, module: nn.Module, positions: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> None:
        self._module: Any = module
        self._positions = positions
        self._mask = mask

    @torch.no_grad()
    def head_gram(self, states: Activations) -> Float[Tensor, "in in"]:
        """Gram matrix of what enters o_proj. The activations stay as they are."""
        with _bypassed(self._module.self_attn, "o_proj"):
            return _gram(states, self._attention)

    @torch.no_grad()
    def attend(self, states: Activations) -> None:
        """Adds the attention's output to the activations."""
        for place, x in states:
            states[place] = x + self._attention(x)

    @torch.no_grad()
    def neuron_gram(self, states: Activations) -> Float[Tensor, "in in"]:
        """Gram matrix of what enters down_proj, behind this layer's attention."""
        with _bypassed(self._module.mlp, "down_proj"):
            return _gram(states, self._ffn)

    @torch.no_grad()
    def feed(self, states: Activations) -> None:
        """Adds the feed-forward output to the activations."""
        for place, x in states:
            states[place] = x + self._ffn(x)

    @torch.no_grad()
    def through(self, x: Tensor) -> Tensor:
        """Outputs of the whole layer for one batch of inputs."""
        x = x + self._attention(x)
        return x + self._ffn(x)

    def _attention(self, x: Tensor) -> Tensor:
        output, _ = self._module.self_attn(
            hidden_states=self._module.input_layernorm(x),
            position_embeddings=self._positions,
            attention_mask=self._mask,
        )
        return output  # type: ignore[no-any-return]

    def _ffn(self, x: Tensor) -> Tensor:
        return self._module.mlp(self._module.post_attention_layernorm(x))  # type: ignore[no-any-return]


@contextmanager
def full_float32() -> Iterator[None]:
    """Within, float32 products are float32 to the end, though the caller may allow TF32 or bf16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _bypassed(block: Any, projection: str) -> Iterator[None]:
    """Within, the block returns the inputs of its last projection instead of the outputs."""
    original = getattr(block, projection)
    setattr(block, projection, nn.Identity())
    try:
        yield
    finally:
        setattr(block, projection, original)


def _gram(states: Activations, inputs: Callable[[Tensor], Tensor]) -> Float[Tensor, "in in"]:
    """Sum of x x' over all tokens, in float32 (its scale changes no choice)."""
    total: Tensor | None = None
    for _, x in states:
        rows = inputs(x).flatten(0, 1).float()
        if total is None:
            total = rows.new_zeros(rows.shape[1], rows.shape[1])
        total.addmm_(rows.T, rows)
    assert total is not None, "no calibration windows"
    return total
