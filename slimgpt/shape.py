"""Per-layer widths of a LLaMA-family decoder: the one description that everyone reads.

Everything that can be said of a model without its weights is said here: which tensors it has and
of which shape, its parameters, weight bytes, KV-cache bytes a token and FLOPs. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Widths of one decoder layer; a width of 0 means that the sub-block is absent.

    Attributes:
        query_heads: query heads, each of the model's ``head_dim``.
        kv_heads: key/value heads; divides ``query_heads``.
        ffn: neurons of the feed-forward block (``intermediate_size``).
    """

    query_heads: int
    kv_heads: int
    ffn: int

    def __post_init__(self) -> None:
        if min(self.query_heads, self.kv_heads, self.ffn) < 0:
            raise ValueError(f"widths can't be negative: {self}")
        if (self.query_heads == 0) != (self.kv_heads == 0):
            raise ValueError(f"query and KV heads are absent together or not at all: {self}")
        if self.kv_heads and self.query_heads % self.kv_heads:
            raise ValueError(f"query heads must be a multiple of KV heads: {self}")

    @property
    def has_attention(self) -> bool:
        return self.query_heads > 0

    @property
    def has_ffn(self) -> bool:
        return self.ffn > 0

    @property
    def group_size(self) -> int:
        """Query heads that share one KV head (0 without attention)."""
        return self.query_heads // self.kv_heads if self.kv_heads else 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only model: shared dimensions and the widths of every layer.

    Attributes:
        hidden_size: width of the residual stream.
        head_dim: width of one attention head.
        vocab_size: rows of the embedding.
        layers: one :class:`LayerShape` for each decoder layer.
        tied_embeddings: the LM head is the embedding matrix.
        qkv_bias: q, k and v projections have biases (Qwen2).
        output_bias: the attention output projection has a bias.
        ffn_bias: gate, up and down projections have biases.
        qk_norm: q and k are normalised per head (Qwen3).
    """

    hidden_size: int
    head_dim: int
    vocab_size: int
    layers: tuple[LayerShape, ...]
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False

    def with_layers(self, layers: tuple[LayerShape, ...]) -> ModelShape:
        return replace(self, layers=layers)

    @property
    def is_uniform(self) -> bool:
        """Whether all layers have the same widths and no sub-block is absent."""
        first = self.layers[0]
        return first.has_attention and first.has_ffn and all(x == first for x in self.layers)

    def layer_tensors(self, layer: LayerShape) -> dict[str, tuple[int, ...]]:
        """Tensor names inside one decoder layer, and their shapes as ``(out, in)``."""
        tensors: dict[str, tuple[int, ...]] = {}
        if layer.has_attention:
            tensors |= self._attention_tensors(layer)
        if layer.has_ffn:
            tensors |= self._ffn_tensors(layer)
        return tensors

    def _attention_tensors(self, layer: LayerShape) -> dict[str, tuple[int, ...]]:
        h, q, kv = (
            self.hidden_size,
            layer.query_heads * self.head_dim,
            layer.kv_heads * self.head_dim,
        )
        tensors: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (h,),
            "self_attn.q_proj.weight": (q, h),
            "self_attn.k_proj.weight": (kv, h),
            "self_attn.v_proj.weight": (kv, h),
            "self_attn.o_proj.weight": (h, q),
        }
        if self.qkv_bias:
            tensors["self_attn.q_proj.bias"] = (q,)
            tensors["self_attn.k_proj.bias"] = (kv,)
            tensors["self_attn.v_proj.bias"] = (kv,)
        if self.output_bias:
            tensors["self_attn.o_proj.bias"] = (h,)
        if self.qk_norm:
            tensors["self_attn.q_norm.weight"] = (self.head_dim,)
            tensors["self_attn.k_norm.weight"] = (self.head_dim,)
        return tensors

    def _ffn_tensors(self, layer: LayerShape) -> dict[str, tuple[int, ...]]:
        h, f = self.hidden_size, layer.ffn
        tensors: dict[str, tuple[int, ...]] = {
            "post_attention_layernorm.weight": (h,),
            "mlp.gate_proj.weight": (f, h),
            "mlp.up_proj.weight": (f, h),
            "mlp.down_proj.weight": (h, f),
        }
        if self.ffn_bias:
            tensors["mlp.gate_proj.bias"] = (f,)
            tensors["mlp.up_proj.bias"] = (f,)
            tensors["mlp.down_proj.bias"] = (h,)
        return tensors

    def outer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Tensors outside the decoder layers, under their checkpoint names."""
        tensors: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden_size),
            "model.norm.weight": (self.hidden_size,),
        }
        if not self.tied_embeddings:
            tensors["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        return tensors

    def layer_parameters(self, layer: LayerShape) -> int:
        return sum(prod(s) for s in self.layer_tensors(layer).values())

    @property
    def decoder_parameters(self) -> int:
        """Parameters of all decoder layers, norms included: what ``--ratio`` is a fraction of."""
        return sum(self.layer_parameters(layer) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return self.decoder_parameters + sum(prod(s) for s in self.outer_tensors().values())

    def weight_bytes(self, bytes_per_value: int) -> int:
        return self.parameters * bytes_per_value

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """KV-cache bytes of one token: keys and values of every layer's KV heads."""
        return 2 * self.head_dim * bytes_per_value * sum(x.kv_heads for x in self.layers)

    def _matrix_parameters(self, layer: LayerShape) -> int:
        return sum(prod(s) for s in self.layer_tensors(layer).values() if len(s) == 2)

    def prefill_flops(self, tokens: int) -> int:
        """FLOPs to read a prompt of ``tokens`` and predict one token.

        Two a matrix parameter a token, causal attention (QK' and PV, 2 FLOPs each over
        t(t+1)/2 pairs), and the LM head for the last position. Element-wise work is left out.
        """
        pairs = tokens * (tokens + 1) // 2
        return self._head_flops() + sum(
            2 * self._matrix_parameters(x) * tokens + 4 * x.query_heads * self.head_dim * pairs
            for x in self.layers
        )

    def decode_flops(self, context: int) -> int:
        """FLOPs to generate one token that attends to ``context`` positions, itself included."""
        return self._head_flops() + sum(
            2 * self._matrix_parameters(x) + 4 * x.query_heads * self.head_dim * context
            for x in self.layers
        )

    def _head_flops(self) -> int:
        return 2 * self.vocab_size * self.hidden_size

    def to_manifest(self) -> dict[str, Any]:
        """The ``shape`` entry of slimgpt.json."""
        return {
            "hidden_size": self.hidden_size,
            "head_dim": self.head_dim,
            "layers": [
                {"query_heads": x.query_heads, "kv_heads": x.kv_heads, "ffn": x.ffn}
                for x in self.layers
            ],
        }
