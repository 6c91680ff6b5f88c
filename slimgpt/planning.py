"""From a ratio and constraints to a target shape, before a weight is read.

Heads are rounded per layer as the paper does; FFN widths then absorb what the rounding left, so
that the decoder parameters removed are the ones asked for, to within one (aligned) width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Literal

from slimgpt.errors import UsageError
from slimgpt.schedule import default_first_layer_ratio, layer_ratios
from slimgpt.shape import LayerShape, ModelShape

KvHeads = Literal["keep", "prune"]


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the pruned shape must satisfy.

    Attributes:
        kv_heads: ``prune`` removes whole KV groups with their query heads; ``keep`` removes the
            same number of query heads from every group; None takes ``prune`` where every query
            head has its own KV head (MHA) and ``keep`` otherwise.
        align: every FFN width is a multiple of this.
        tensor_parallel: degree that must divide every layer.
        uniform: the same widths in all layers.
    """

    kv_heads: KvHeads | None = None
    align: int = 1
    tensor_parallel: int = 1
    uniform: bool = False

    @property
    def ffn_step(self) -> int:
        return lcm(self.align, self.tensor_parallel)


@dataclass(frozen=True, slots=True)
class Plan:
    """Source and target shapes; ``layer_ratios`` is the curve that the target rounds."""

    source: ModelShape
    target: ModelShape
    ratio: float
    layer_ratios: tuple[float, ...]
    kv_heads: KvHeads

    @property
    def achieved(self) -> float:
        """Fraction of decoder parameters removed by the target shape."""
        return 1 - self.target.decoder_parameters / self.source.decoder_parameters


def resolve_kv_heads(shape: ModelShape, asked: KvHeads | None) -> KvHeads:
    """What ``--kv-heads`` means on this model.

    Raises:
        UsageError: ``keep`` on a model in which every query head has its own KV head.
    """
    grouped = any(layer.group_size > 1 for layer in shape.layers)
    if asked == "keep" and not grouped:
        raise UsageError(
            "--kv-heads keep needs grouped-query attention: here every query head has its own KV "
            "head, and removing one removes both; use --kv-heads prune"
        )
    return asked or ("keep" if grouped else "prune")


def make_plan(
    shape: ModelShape,
    ratio: float,
    *,
    schedule: str = "log",
    first_layer_ratio: float | None = None,
    constraints: Constraints | None = None,
) -> Plan:
    """The target shape for a ratio.

    Args:
        shape: the source model.
        ratio: fraction of decoder parameters to remove, in [0, 1).
        schedule: see :mod:`slimgpt.schedule`.
        first_layer_ratio: smallest ratio of the curve; None takes the paper's.
        constraints: see :class:`Constraints`.

    Raises:
        UsageError: the ratio or a constraint can't be met; the message names what can.
    """
    constraints = constraints or Constraints()
    _check_arguments(ratio, first_layer_ratio, constraints)
    kv_heads = resolve_kv_heads(shape, constraints.kv_heads)
    schedule = "uniform" if constraints.uniform else schedule

    def attempt(r: float) -> Plan:
        first = default_first_layer_ratio(r) if first_layer_ratio is None else first_layer_ratio
        weights = [shape.layer_parameters(x) for x in shape.layers]
        ratios = layer_ratios(schedule, r, first, weights)
        layers = _layers(shape, r, ratios, constraints, kv_heads)
        return Plan(shape, shape.with_layers(layers), r, tuple(ratios), kv_heads)

    try:
        return attempt(ratio)
    except _Infeasible as reason:
        raise UsageError(
            f"--ratio {ratio:g} with --schedule {schedule}: {reason}; {_possible(attempt, ratio)}"
        ) from None


class _Infeasible(Exception):
    """The ratio can't be met; the message says why."""


def _check_arguments(ratio: float, first: float | None, constraints: Constraints) -> None:
    if not 0 <= ratio < 1:
        raise UsageError(f"--ratio {ratio:g}: give a fraction of at least 0 and below 1, like 0.25")
    if first is not None and not 0 <= first < 1:
        raise UsageError(
            f"--first-layer-ratio {first:g}: give a fraction of at least 0 and below 1"
        )
    if constraints.align < 1:
        raise UsageError(f"--align {constraints.align}: give a positive whole number, like 64")
    if constraints.tensor_parallel < 1:
        raise UsageError(
            f"--tensor-parallel {constraints.tensor_parallel}: give a positive whole number, like 2"
        )


def _possible(attempt: Callable[[float], Plan], ratio: float) -> str:
    """Names the nearest ratios, in whole hundredths, that can be met."""
    feasible = []
    for hundredths in range(100):
        try:
            attempt(hundredths / 100)
        except _Infeasible:
            continue
        feasible.append(hundredths / 100)
    below = [r for r in feasible if r < ratio]
    above = [r for r in feasible if r > ratio]
    if below:
        return f"the largest possible ratio below it is {below[-1]:g}"
    if above:
        return f"the smallest possible ratio is {above[0]:g}"
    return "no ratio is possible with these options: relax --align, --tensor-parallel or --uniform"


def _layers(
    shape: ModelShape,
    ratio: float,
    ratios: Sequence[float],
    constraints: Constraints,
    kv_heads: KvHeads,
) -> tuple[LayerShape, ...]:
    for i, r in enumerate(ratios):
        if not -1e-12 <= r < 1:
            raise _Infeasible(f"layer {i} would have to lose {r:.1%} of its parameters")
    attention = [
        _attention(i, layer, r, constraints.tensor_parallel, kv_heads)
        for i, (layer, r) in enumerate(zip(shape.layers, ratios, strict=True))
    ]
    if constraints.uniform:
        _require_one_width(shape, attention)
    kept = [LayerShape(q, kv, 0) for q, kv in attention]
    per_neuron = _parameters_per_neuron(shape)
    fixed = sum(_without_ffn(shape, k, x) for k, x in zip(kept, shape.layers, strict=True))
    budget = (1 - ratio) * shape.decoder_parameters - fixed
    fit = _uniform_widths if constraints.uniform else _spread_widths
    widths = fit(shape.layers, ratios, budget / per_neuron, constraints.ffn_step)
    layers = tuple(
        LayerShape(k.query_heads, k.kv_heads, w) for k, w in zip(kept, widths, strict=True)
    )
    _check_met(shape, layers, ratio, constraints)
    return layers


def attention_options(
    layer: LayerShape, tensor_parallel: int, kv_heads: KvHeads
) -> list[tuple[int, int]]:
    """The (query heads, KV heads) that a layer may be cut to, fewest first.

    Tensor parallelism splits query heads evenly; KV heads are split, or replicated when there are
    fewer of them than ranks.
    """
    group = layer.group_size
    if kv_heads == "prune":
        pairs = [(kv * group, kv) for kv in range(1, layer.kv_heads + 1)]
    else:
        pairs = [(layer.kv_heads * m, layer.kv_heads) for m in range(1, group + 1)]
    tp = tensor_parallel
    return [(q, kv) for q, kv in pairs if q % tp == 0 and (kv % tp == 0 or tp % kv == 0)]


def _attention(
    index: int, layer: LayerShape, ratio: float, tensor_parallel: int, kv_heads: KvHeads
) -> tuple[int, int]:
    """The allowed head counts nearest to the ratio (ties as Python's round: to an even removal)."""
    if not layer.has_attention:
        return 0, 0
    options = attention_options(layer, tensor_parallel, kv_heads)
    if not options:
        degrees = [
            t for t in range(1, layer.query_heads + 1) if attention_options(layer, t, kv_heads)
        ]
        raise UsageError(
            f"--tensor-parallel {tensor_parallel} divides no head count of layer {index} "
            f"({layer.query_heads} query heads, {layer.kv_heads} KV heads, --kv-heads {kv_heads}); "
            f"possible here: {', '.join(map(str, degrees))}"
        )
    unit = options[0][0]

    def distance(option: tuple[int, int]) -> tuple[float, int]:
        removed = layer.query_heads - option[0]
        return abs(removed - layer.query_heads * ratio), (removed // unit) % 2

    best = min([(0, 0), *options], key=distance)
    if best == (0, 0):
        raise _Infeasible(
            f"layer {index} would keep less than one head "
            f"({layer.query_heads * (1 - ratio):.2f} of {layer.query_heads})"
        )
    return best


def _require_one_width(shape: ModelShape, attention: Sequence[tuple[int, int]]) -> None:
    if len(set(attention)) > 1 or not all(x.has_attention and x.has_ffn for x in shape.layers):
        raise UsageError(
            "--uniform needs a model whose layers all have the same heads; this one differs from "
            "layer to layer"
        )


def _parameters_per_neuron(shape: ModelShape) -> int:
    """Parameters that one FFN neuron costs: its gate and up rows, its down column, its biases."""
    one, two = (shape.layer_parameters(LayerShape(0, 0, f)) for f in (1, 2))
    return two - one


def _without_ffn(shape: ModelShape, kept: LayerShape, source: LayerShape) -> int:
    """Parameters of a layer that its FFN width does not change."""
    fixed = shape.layer_parameters(kept)
    if source.has_ffn:
        fixed += shape.layer_parameters(LayerShape(0, 0, 1)) - _parameters_per_neuron(shape)
    return fixed


def _spread_widths(
    layers: Sequence[LayerShape], ratios: Sequence[float], neurons: float, step: int
) -> list[int]:
    """FFN widths that follow the ratios and add up to ``neurons``.

    One shift of all ratios makes up for the rounding of heads; rounding to whole steps carries
    its remainder from layer to layer, so that the sum is off by half a step at most.
    """
    limits = [layer.ffn // step * step for layer in layers]
    present = [i for i, layer in enumerate(layers) if layer.has_ffn]
    for i in present:
        if limits[i] < step:
            raise _Infeasible(f"layer {i} has {layers[i].ffn} FFN neurons, fewer than {step}")

    def kept(shift: float) -> list[float]:
        return [min(limits[i], max(step, layers[i].ffn * (1 - ratios[i] + shift))) for i in present]

    low, high = -1.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(kept(middle)) < neurons else (low, middle)
    widths, carry = [0] * len(layers), 0.0
    for i, want in zip(present, kept(high), strict=True):
        width = min(limits[i], max(step, round((want + carry) / step) * step))
        carry += want - width
        widths[i] = width
    return widths


def _uniform_widths(
    layers: Sequence[LayerShape], ratios: Sequence[float], neurons: float, step: int
) -> list[int]:
    limit = min(layer.ffn for layer in layers) // step * step
    width = round(neurons / len(layers) / step) * step
    if not step <= width <= limit:
        raise _Infeasible(f"every layer would need {width} FFN neurons, of {step} to {limit}")
    return [width] * len(layers)


def _check_met(
    shape: ModelShape, layers: tuple[LayerShape, ...], ratio: float, constraints: Constraints
) -> None:
    """Refuses a shape further from the request than half a head or one aligned width."""
    target = (1 - ratio) * shape.decoder_parameters
    off = abs(shape.with_layers(layers).decoder_parameters - target)
    width = constraints.ffn_step * _parameters_per_neuron(shape)
    half_head = 2 * shape.hidden_size * shape.head_dim
    tolerance = max(half_head, width * (len(layers) if constraints.uniform else 1))
    if off > tolerance:
        achieved = 1 - shape.with_layers(layers).decoder_parameters / shape.decoder_parameters
        raise _Infeasible(f"the nearest shape removes {achieved:.4f}")
