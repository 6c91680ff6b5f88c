"""The decoder as one ONNX graph: prefill and decode, each layer at its own widths.

Contrib operators of ONNX Runtime: GroupQueryAttention applies rope and keeps the KV cache in place,
FusedMatMul reads weights as checkpoints store them, outputs first. Inputs and outputs are named as
ONNX Runtime GenAI names them; layers without attention have no cache, so caches are numbered
without gaps. One input is ours: ``logits_to_keep``, which has a default, says how many of the last
positions get logits (0: all).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from slimgpt.shape import LayerShape
from slimgpt_export.onnx.geometry import Geometry
from slimgpt_export.onnx.nodes import CONTRIB, Nodes
from slimgpt_export.onnx.rope import Rope
from slimgpt_export.onnx.weights import EMBEDDING, FINAL_NORM, HEAD, IR_TYPES, GraphWeights

_END = 2**62


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """What the shape does not say.

    Attributes:
        dtype: of activations and caches.
        epsilon: of every norm.
        windows: tokens that each layer looks back; None for all.
        rope: tables of the positions.
        accuracy_level: of MatMulNBits.
    """

    dtype: torch.dtype
    epsilon: float
    windows: Sequence[int | None]
    rope: Rope
    accuracy_level: int


def build_graph(geometry: Geometry, options: GraphOptions, weights: GraphWeights) -> ir.Model:
    """The whole model.

    Args:
        geometry: widths of model and graph.
        options: what they do not say.
        weights: read when the model is saved.
    """
    return _Decoder(geometry, options, weights).build()


class _Decoder:
    def __init__(self, geometry: Geometry, options: GraphOptions, weights: GraphWeights) -> None:
        self._geometry, self._options, self._weights = geometry, options, weights
        self._shape = geometry.graph
        self._nodes = Nodes("decoder")
        self._type = IR_TYPES[options.dtype]
        self._caches = 0

    def build(self) -> ir.Model:
        nodes = self._nodes
        ids = nodes.input("input_ids", ir.DataType.INT64, ["batch_size", "sequence_length"])
        mask = nodes.input(
            "attention_mask", ir.DataType.INT64, ["batch_size", "total_sequence_length"]
        )
        attends = any(layer.has_attention for layer in self._shape.layers)
        shared = [*self._lengths(mask), *self._rope(mask)] if attends else []
        hidden, pending = self._embed(ids), None
        for index, layer in enumerate(self._shape.layers):
            hidden, pending = self._layer(index, layer, hidden, pending, shared)
        normed, _ = self._norm(hidden, pending, FINAL_NORM)
        head = EMBEDDING if self._shape.tied_embeddings else HEAD
        logits = self._matmul(self._kept(normed), head, "logits")
        nodes.output(
            logits, "logits", self._type, ["batch_size", "logits_length", self._shape.vocab_size]
        )
        return nodes.model()

    # -- around the layers -----------------------------------------------------------------------

    def _lengths(self, mask: ir.Value) -> list[ir.Value]:
        """Index of each row's last token, and the length of the longest row: int32."""
        nodes, int32 = self._nodes, ir.DataType.INT32.value
        one = nodes.constant("one", [1])
        count = nodes.add("ReduceSum", [mask, one], "lengths", keepdims=0)
        last = nodes.add("Sub", [count, one], "last_positions")
        total = nodes.add(
            "Gather", [nodes.add("Shape", [mask], "mask_size"), nodes.scalar("second", 1)], "total"
        )
        return [
            nodes.add("Cast", [last], "last_positions_int32", to=int32),
            nodes.add("Cast", [total], "total_int32", to=int32),
        ]

    def _rope(self, mask: ir.Value) -> list[ir.Value]:
        """Cosines and sines; where they depend on the length of the text, those for this one."""
        nodes, rope = self._nodes, self._options.rope
        near = [nodes.weight(x) for x in self._weights.rope("rope", rope.table)]
        if rope.longer is None:
            return near
        far = [nodes.weight(x) for x in self._weights.rope("rope.longer", rope.longer)]
        total = nodes.value("total")
        beyond = nodes.add("Greater", [total, nodes.scalar("switch", rope.switch)], "beyond")
        return nodes.choose(beyond, far, near, ["rope.chosen.cos", "rope.chosen.sin"])

    def _embed(self, ids: ir.Value) -> ir.Value:
        nodes, blocks = self._nodes, self._weights.blocks(EMBEDDING)
        if blocks is None:
            return nodes.add(
                "Gather", [nodes.weight(self._weights.whole(EMBEDDING)), ids], "embedded"
            )
        # The head reads the same values in three dimensions, this operator takes two.
        flat = nodes.constant("table_size", [self._shape.vocab_size, -1])
        values = nodes.add("Reshape", [nodes.weight(blocks.values), flat], f"{EMBEDDING}.table")
        inputs = [values, ids, nodes.weight(blocks.scales)]
        if blocks.zero_points is not None:
            inputs.append(nodes.weight(blocks.zero_points))
        return nodes.add(
            "GatherBlockQuantized",
            inputs,
            "embedded",
            domain=CONTRIB,
            bits=blocks.bits,
            block_size=blocks.block_size,
            gather_axis=0,
            quantize_axis=1,
        )

    def _kept(self, hidden: ir.Value) -> ir.Value:
        """The positions that get logits: slicing from -n takes the last n, and from -0 all."""
        nodes = self._nodes
        start = nodes.add("Neg", [nodes.optional_input("logits_to_keep", [0])], "first_kept")
        end, axis = nodes.constant("end", [_END]), nodes.constant("sequence_axis", [1])
        return nodes.add("Slice", [hidden, start, end, axis], "kept")

    # -- a layer ---------------------------------------------------------------------------------

    def _layer(
        self,
        index: int,
        layer: LayerShape,
        hidden: ir.Value,
        pending: ir.Value | None,
        shared: list[ir.Value],
    ) -> tuple[ir.Value, ir.Value | None]:
        """``hidden`` is the residual stream but for ``pending``, the last block's output."""
        prefix = f"model.layers.{index}"
        if layer.has_attention:
            x, hidden = self._norm(hidden, pending, f"{prefix}.input_layernorm.weight")
            pending = self._attention(index, layer, x, shared)
        if layer.has_ffn:
            x, hidden = self._norm(hidden, pending, f"{prefix}.post_attention_layernorm.weight")
            pending = self._ffn(f"{prefix}.mlp", layer, x)
        return hidden, pending

    def _norm(
        self, hidden: ir.Value, pending: ir.Value | None, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """Adds what is pending to the residual stream; both the normalised sum and the sum."""
        weight = self._nodes.weight(self._weights.whole(name))
        if pending is None:
            return self._rms(hidden, weight, f"{name}.normed", self._options.epsilon), hidden
        normed, _, _, total = self._nodes.add_many(
            "SkipSimplifiedLayerNormalization",
            [hidden, pending, weight],
            [f"{name}.normed", "", "", f"{name}.sum"],
            domain=CONTRIB,
            epsilon=self._options.epsilon,
        )
        return normed, total

    def _rms(self, x: ir.Value, weight: ir.Value, name: str, epsilon: float) -> ir.Value:
        return self._nodes.add("RMSNormalization", [x, weight], name, axis=-1, epsilon=epsilon)

    def _attention(
        self, index: int, layer: LayerShape, x: ir.Value, shared: list[ir.Value]
    ) -> ir.Value:
        nodes, name = self._nodes, f"model.layers.{index}.self_attn"
        qkv = self._linear(x, f"{name}.qkv_proj", bias=self._shape.qkv_bias)
        inputs: list[ir.Value | None] = [qkv, None, None]
        if self._shape.qk_norm:
            inputs = [*self._normed_heads(name, layer, qkv)]
        number, window = self._caches, self._options.windows[index]
        self._caches += 1
        past = [
            nodes.input(f"past_key_values.{number}.{x}", self._type, self._cache(layer, "past"))
            for x in ("key", "value")
        ]
        present = [f"present.{number}.{x}" for x in ("key", "value")]
        attended, *made = nodes.add_many(
            "GroupQueryAttention",
            [*inputs, *past, *shared],
            [f"{name}.attended", *present],
            domain=CONTRIB,
            num_heads=layer.query_heads,
            kv_num_heads=layer.kv_heads,
            scale=self._score_scale(),
            do_rotary=1,
            rotary_interleaved=0,
            local_window_size=-1 if window is None else window,
        )
        for value, label in zip(made, present, strict=True):
            nodes.output(value, label, self._type, self._cache(layer, "total"))
        return self._linear(attended, f"{name}.o_proj", bias=self._shape.output_bias)

    def _score_scale(self) -> float:
        """What products of q and k are multiplied by.

        Norms of widened heads take the mean over more values, all but the model's of them zeros,
        and leave q and k longer. That is put right here: scaled weights would be rounded once more.
        """
        model, graph = self._geometry.source.head_dim, self._shape.head_dim
        return float(model**-0.5 * (model / graph if self._shape.qk_norm else 1))

    def _cache(self, layer: LayerShape, length: str) -> list[int | str]:
        """A concrete number of heads: GenAI reads each layer's from here."""
        return ["batch_size", layer.kv_heads, f"{length}_sequence_length", self._shape.head_dim]

    def _normed_heads(self, name: str, layer: LayerShape, qkv: ir.Value) -> list[ir.Value]:
        """q and k normalised by head, and v (Qwen3)."""
        nodes, width = self._nodes, self._shape.head_dim
        sizes = [count * width for count in (layer.query_heads, layer.kv_heads, layer.kv_heads)]
        q, k, v = nodes.split(qkv, sizes, [f"{name}.{x}" for x in "qkv"])
        by_head, flat = (
            nodes.constant("by_head", [0, 0, -1, width]),
            nodes.constant("flat", [0, 0, -1]),
        )
        # See _score_scale: the zeros of a wider head count in the mean, and so must they here.
        epsilon = self._options.epsilon * self._geometry.source.head_dim / width
        normed = []
        for letter, x in (("q", q), ("k", k)):
            heads = nodes.add("Reshape", [x, by_head], f"{name}.{letter}_heads")
            weight = nodes.weight(self._weights.whole(f"{name}.{letter}_norm.weight"))
            norm = self._rms(heads, weight, f"{name}.{letter}_normed", epsilon)
            normed.append(nodes.add("Reshape", [norm, flat], f"{name}.{letter}_flat"))
        return [*normed, v]

    def _ffn(self, name: str, layer: LayerShape, x: ir.Value) -> ir.Value:
        nodes = self._nodes
        both = self._linear(x, f"{name}.gate_up_proj", bias=self._shape.ffn_bias)
        gate, up = nodes.split(both, [layer.ffn, layer.ffn], [f"{name}.gate", f"{name}.up"])
        sigmoid = nodes.add("Sigmoid", [gate], f"{name}.sigmoid")
        silu = nodes.add("Mul", [gate, sigmoid], f"{name}.silu")
        product = nodes.add("Mul", [silu, up], f"{name}.product")
        return self._linear(product, f"{name}.down_proj", bias=self._shape.ffn_bias)

    # -- matrices --------------------------------------------------------------------------------

    def _linear(self, x: ir.Value, name: str, *, bias: bool) -> ir.Value:
        y = self._matmul(x, f"{name}.weight", f"{name}.product")
        if not bias:
            return y
        added = self._nodes.weight(self._weights.whole(f"{name}.bias"))
        return self._nodes.add("Add", [y, added], f"{name}.biased")

    def _matmul(self, x: ir.Value, name: str, output: str) -> ir.Value:
        """x times a matrix (out, in)."""
        nodes, blocks = self._nodes, self._weights.blocks(name)
        if blocks is None:
            inputs = [x, nodes.weight(self._weights.whole(name))]
            return nodes.add("FusedMatMul", inputs, output, domain=CONTRIB, transB=1)
        inputs = [x, nodes.weight(blocks.values), nodes.weight(blocks.scales)]
        if blocks.zero_points is not None:
            inputs.append(nodes.weight(blocks.zero_points))
        out, count, _ = blocks.values.shape.numpy()
        return nodes.add(
            "MatMulNBits",
            inputs,
            output,
            domain=CONTRIB,
            N=out,
            K=count * blocks.block_size,
            bits=blocks.bits,
            block_size=blocks.block_size,
            accuracy_level=self._options.accuracy_level,
        )
