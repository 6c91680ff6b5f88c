"""A recipe: all that decides a release, in one document.

A YAML file becomes one in :mod:`slimgpt.release.recipe.load`, which also words the errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from slimgpt.planning import Constraints
from slimgpt.prune.options import DEPTH, Placement, PruneOptions
from slimgpt.release.recipe.sections import (
    Evaluate,
    Export,
    Gates,
    Prune,
    Push,
    Recover,
    Section,
    Sign,
)
from slimgpt.schedule import default_first_layer_ratio

LARGEST_SEED = 2**32 - 1


class Recipe(Section):
    """A release with SlimGPT: slimgpt compress MODEL OUT --recipe FILE."""

    version: Literal[1] = 1
    """Version of this format."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    """Seed of every random choice; the same seed gives the same bytes."""
    prune: Prune
    recover: Recover | None = None
    evaluate: Evaluate | None = None
    gates: Gates | None = None
    exports: tuple[Export, ...] = Field(
        default=(),
        strict=False,
        examples=[[{"format": "cyclonedx"}, {"format": "stock", "out": "stock", "pad": True}]],
    )
    """Forms for other tools: each has a format. cyclonedx is a bill of materials (ML-BOM) in OUT.
    stock (out, pad), quantized (out; scheme fp8, w8a8 or w4a16; group_size, runs_on,
    tensor_parallel, text, window, max_kl) and onnx (out; precision fp32, fp16, bf16, int8 or int4;
    block_size, asymmetric, accuracy_level, activations, keep, text, portable) are directories at
    out, made after OUT is published."""
    sign: Sign | None = None
    push: Push | None = None

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        texts = self.evaluate.texts if self.evaluate else ()
        tasks = self.evaluate.tasks if self.evaluate else ()
        gates = self.gates or Gates.model_construct()
        for name in ("perplexity_increase", "kl"):
            if getattr(gates, name) is not None and not texts:
                yield f"gates.{name}", "can't be measured without a text: give evaluate.texts"
        if gates.accuracy is not None and not tasks:
            yield "gates.accuracy", "can't be measured without a task: give evaluate.tasks"
        once = Counter(e.out.label if e.out else e.format for e in self.exports)
        for name, times in once.items():
            if times > 1:
                yield "exports", f"{name} stands there {times}x: give it once"

    def to_document(self) -> dict[str, Any]:
        """The recipe as JSON, with defaults resolved and left-out sections left out.

        Two recipes that mean the same give the same document: it has no absolute paths and does
        not depend on the order or the spelling of the file. What depends on the model (null) or on
        the content of files is not in it.
        """
        document = self.model_dump(mode="json")
        prune = document["prune"]
        if self.prune.uniform:
            prune["schedule"] = "uniform"
        elif self.prune.first_layer_ratio is None and self.prune.method != DEPTH:
            prune["first_layer_ratio"] = default_first_layer_ratio(self.prune.ratio)
        if self.recover:
            document["recover"]["micro_batch"] = self.recover.examples_at_once
        document["exports"] = [export.to_document() for export in self.exports]
        return {key: value for key, value in document.items() if value is not None}


def prune_options_of(
    recipe: Recipe, device: str, dtype: str, fresh: bool, activations: Placement = "auto"
) -> PruneOptions:
    """The ``prune`` section as the driver of pruning takes it.

    Args:
        recipe: decides the bytes.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: what layers compute in.
        fresh: throw away an unfinished run.
        activations: where hidden states are kept.
    """
    prune = recipe.prune
    return PruneOptions(
        ratio=prune.ratio,
        method=prune.method,
        schedule=prune.schedule,
        first_layer_ratio=prune.first_layer_ratio,
        constraints=Constraints(prune.kv_heads, prune.align, prune.tensor_parallel, prune.uniform),
        damping=prune.damping,
        device=device,
        dtype=dtype,
        activations=activations,
        fresh=fresh,
    )
