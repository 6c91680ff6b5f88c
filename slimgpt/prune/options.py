"""Everything a user may decide about a pruning run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from slimgpt.errors import UsageError
from slimgpt.planning import Constraints, Plan, make_plan
from slimgpt.prune.depth_plan import depth_plan
from slimgpt.schedule import default_first_layer_ratio
from slimgpt.shape import ModelShape

DEPTH = "depth"
METHOD_NAMES = ("exact", "slimgpt", DEPTH)
Placement = Literal["auto", "memory", "disk"]


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """Options of a pruning run; those in :meth:`recipe` decide the resulting bytes.

    Attributes:
        ratio: fraction of decoder parameters to remove, in [0, 1).
        method: ``exact`` (default), the paper's ``slimgpt``, or ``depth`` for whole layers.
        schedule: ratio over depth; see slimgpt.schedule.
        first_layer_ratio: smallest ratio of the schedule; None takes the paper's.
        constraints: KV heads, alignment, tensor parallelism, uniformity.
        damping: relative damping of the Gram matrix; None takes the method's.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: what layers compute in; ``auto`` is float32 on a CPU and the stored type on a GPU.
        activations: where hidden states are kept; ``auto`` is memory while they fit half of it.
        fresh: throw away an unfinished run instead of resuming it.
    """

    ratio: float
    method: str = "exact"
    schedule: str = "log"
    first_layer_ratio: float | None = None
    constraints: Constraints = field(default_factory=Constraints)
    damping: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    activations: Placement = "auto"
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.damping is not None and not 0 <= self.damping <= 10:
            raise UsageError(f"--damping {self.damping:g}: give a number from 0 to 10, like 0.01")
        if self.method not in METHOD_NAMES:
            raise UsageError(f"--method {self.method}: give {', '.join(METHOD_NAMES)}")
        if self.method == DEPTH:
            self._require_nothing_of_widths()

    def _require_nothing_of_widths(self) -> None:
        limits, usual = self.constraints, Constraints()
        given = {
            "--schedule": self.schedule != "log",
            "--first-layer-ratio": self.first_layer_ratio is not None,
            "--kv-heads": limits.kv_heads is not None,
            "--align": limits.align != usual.align,
            "--tensor-parallel": limits.tensor_parallel != usual.tensor_parallel,
            "--uniform": limits.uniform,
            "--damping": self.damping is not None,
        }
        named = [flag for flag, there in given.items() if there]
        if named:
            raise UsageError(
                f"--method depth drops whole layers and changes no width: leave out "
                f"{', '.join(named)}"
            )

    def plan(self, shape: ModelShape) -> Plan:
        """The target shape; errors as :func:`slimgpt.planning.make_plan`, or of depth_plan."""
        if self.method == DEPTH:
            return depth_plan(shape, self.ratio)
        return make_plan(
            shape,
            self.ratio,
            schedule=self.schedule,
            first_layer_ratio=self.first_layer_ratio,
            constraints=self.constraints,
        )

    def recipe(self, plan: Plan, damping: float, dtype: str) -> dict[str, Any]:
        """The ``recipe`` entry of the manifest, with every default resolved."""
        first = self.first_layer_ratio
        uniform = self.constraints.uniform
        return {
            "ratio": self.ratio,
            "method": self.method,
            "schedule": "uniform" if uniform else self.schedule,
            "first_layer_ratio": default_first_layer_ratio(self.ratio) if first is None else first,
            "kv_heads": plan.kv_heads,
            "align": self.constraints.align,
            "tensor_parallel": self.constraints.tensor_parallel,
            "uniform": uniform,
            "damping": damping,
            "dtype": dtype,
        }
