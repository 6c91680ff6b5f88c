"""Which widths cost time, and the nearest ones that don't."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.accelerators import Accelerator
from slimgpt_bench.roofline.floor import Lengths, floor, middle
from slimgpt_bench.roofline.products import Numbers, filled, prefill

Block = Literal["attention", "ffn"]


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another width of one layer, against the one that it has.

    Attributes:
        width: query heads or FFN neurons.
        parameters: more of them; negative for fewer.
        prefill_s: longer by this, of one pass; negative for shorter.
        decode_s: likewise, of one step.
    """

    width: int
    parameters: int
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Uneven:
    """A width that is no multiple of the tile.

    Attributes:
        layer: number of it.
        block: whose width it is.
        width: query heads or FFN neurons.
        tile: values that it should be a multiple of.
        wasted: values that are computed beside it.
        prefill_s: of one pass, what filling up costs.
        decode_s: likewise, of one step.
        down: the nearest aligned width below; None where nothing would be left.
        up: the nearest one above.
    """

    layer: int
    block: Block
    width: int
    tile: int
    wasted: int
    prefill_s: float
    decode_s: float
    down: Alternative | None
    up: Alternative | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def uneven_widths(
    shape: ModelShape, cell: Lengths, device: Accelerator, numbers: Numbers
) -> list[Uneven]:
    """All widths that are no multiple of the device's tile, the costliest first.

    Args:
        shape: of the model.
        cell: lengths that the costs are for.
        device: its tile and speeds.
        numbers: bytes of values.
    """
    judge = _Judge(shape, cell, device, numbers)
    found = [x for i in range(len(shape.layers)) for x in judge.layer(i)]
    steps = max(0, cell.output_tokens - 1)
    return sorted(found, key=lambda x: (-(x.prefill_s + steps * x.decode_s), -x.wasted, x.layer))


@dataclass(frozen=True, slots=True)
class _Judge:
    shape: ModelShape
    cell: Lengths
    device: Accelerator
    numbers: Numbers

    def layer(self, index: int) -> Iterator[Uneven]:
        layer, tile, head = self.shape.layers[index], self.device.tile, self.shape.head_dim
        if layer.has_attention and (values := layer.query_heads * head) % tile:
            wasted = filled(values, tile) - values
            yield self._uneven(index, "attention", layer.query_heads, wasted)
        if layer.has_ffn and layer.ffn % tile:
            yield self._uneven(index, "ffn", layer.ffn, filled(layer.ffn, tile) - layer.ffn)

    def _uneven(self, index: int, block: Block, width: int, wasted: int) -> Uneven:
        layer = self.shape.layers[index]
        alone = (
            LayerShape(layer.query_heads, layer.kv_heads, 0)
            if block == "attention"
            else LayerShape(0, 0, layer.ffn)
        )
        one = self.shape.with_layers((alone,))
        first, later = (
            floor(one, step, self.device, self.numbers).waste[0]
            for step in (prefill(self.cell.batch, self.cell.prompt_tokens), middle(self.cell))
        )
        below, above = self._neighbours(layer, block)
        return Uneven(
            index,
            block,
            width,
            self.device.tile,
            wasted,
            first,
            later,
            self._against(layer, below, block),
            self._against(layer, above, block),
        )

    def _neighbours(
        self, layer: LayerShape, block: Block
    ) -> tuple[LayerShape | None, LayerShape | None]:
        """The same layer at the nearest aligned widths, heads by whole KV groups."""
        tile, group = self.device.tile, layer.group_size
        if block == "ffn":
            down = layer.ffn // tile * tile
            pair = down or None, down + tile
            return tuple(  # type: ignore[return-value]
                LayerShape(layer.query_heads, layer.kv_heads, x) if x else None for x in pair
            )
        aligned = [
            kv
            for kv in range(1, layer.kv_heads + tile + 1)
            if kv * group * self.shape.head_dim % tile == 0
        ]
        below = max((kv for kv in aligned if kv < layer.kv_heads), default=None)
        above = min((kv for kv in aligned if kv > layer.kv_heads), default=None)
        return tuple(  # type: ignore[return-value]
            LayerShape(kv * group, kv, layer.ffn) if kv else None for kv in (below, above)
        )

    def _against(
        self, layer: LayerShape, other: LayerShape | None, block: Block
    ) -> Alternative | None:
        if other is None:
            return None
        before, after = (self._seconds(x) for x in (layer, other))
        return Alternative(
            other.query_heads if block == "attention" else other.ffn,
            self.shape.layer_parameters(other) - self.shape.layer_parameters(layer),
            after[0] - before[0],
            after[1] - before[1],
        )

    def _seconds(self, layer: LayerShape) -> tuple[float, float]:
        one = self.shape.with_layers((layer,))
        steps = prefill(self.cell.batch, self.cell.prompt_tokens), middle(self.cell)
        first, later = (floor(one, x, self.device, self.numbers).layers[0] for x in steps)
        return first, later
