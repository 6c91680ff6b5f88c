"""How many whole layers a ratio stands for. No torch."""

from __future__ import annotations

from slimgpt.errors import UsageError
from slimgpt.planning import Plan, resolve_kv_heads
from slimgpt.shape import ModelShape


def depth_plan(shape: ModelShape, ratio: float) -> Plan:
    """The target shape without as many layers as come nearest to the ratio.

    All layers have the same widths, so that the shape is known before it is known which ones go.

    Args:
        shape: the source model.
        ratio: fraction of decoder parameters to remove, in [0, 1).

    Raises:
        UsageError: layers differ, or no number of them is within half a layer of the ratio.
    """
    if not 0 <= ratio < 1:
        raise UsageError(f"--ratio {ratio:g}: give a fraction of at least 0 and below 1, like 0.25")
    count = len(shape.layers)
    if len(set(shape.layers)) > 1:
        raise UsageError(
            "--method depth needs a model whose layers all have the same widths, and those of "
            "MODEL differ: drop layers of the dense model instead"
        )
    dropped = min(range(count), key=lambda n: (abs(n / count - ratio), n))
    far = abs(dropped / count - ratio) > 0.5 / count + 1e-9
    if far or (ratio and not dropped):
        raise UsageError(
            f"--ratio {ratio:g} with --method depth: a layer is {1 / count:.3g} of this decoder; "
            + (
                f"the most that can go is {(count - 1) / count:.3g}, all layers but one"
                if far
                else f"give {1 / count:.3g} for one, or 0 to remove nothing"
            )
        )
    kept = shape.layers[: count - dropped]
    kv_heads = resolve_kv_heads(shape, None)
    return Plan(shape, shape.with_layers(kept), ratio, (), kv_heads)
