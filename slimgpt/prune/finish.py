"""The last stage of a run: from finished blocks to a published checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.checkpoint.writer import assemble, copy_sidecars, publish, write_json
from slimgpt.families import Config
from slimgpt.planning import Plan
from slimgpt.prune.journal import Journal
from slimgpt.release.card.card import CardFacts, write_card
from slimgpt.release.manifest import describe, parameters, seal
from slimgpt.shape import ModelShape
from slimgpt.tokenizer import has_tokenizer, save_tokenizer


def gather(
    journal: Journal, checkpoint: Checkpoint, shape: ModelShape, config: Config | None = None
) -> tuple[Path, bool]:
    """Puts weights, config and sidecars together in the work directory.

    Args:
        journal: holds every block.
        checkpoint: the source, whose sidecars go along.
        shape: of the blocks.
        config: canonical one of the layers that are left; None where all of them are.

    Returns:
        the directory, without card and manifest, and whether its config is one that any tool loads.
    """
    meta, staging = checkpoint.meta, journal.staging()
    assemble([journal.outer, *(journal.block(i) for i in range(len(shape.layers)))], staging)
    config = meta.family.pruned_config(config or meta.config, shape)
    write_json(staging / "config.json", config)
    copy_sidecars(checkpoint, staging)
    known = {meta.config["model_type"], meta.family.pruned_model_type}
    converted = meta.stored_type not in known or config["model_type"] not in known
    if converted and has_tokenizer(meta.directory):
        save_tokenizer(meta.directory, staging)
    return staging, config["model_type"] != meta.family.pruned_model_type


def finish(
    journal: Journal,
    checkpoint: Checkpoint,
    plan: Plan,
    out: Path,
    source: Mapping[str, Any],
    recipe: dict[str, Any],
    device: str,
    *,
    config: Config | None = None,
    quality: Mapping[str, Any] | None = None,
) -> None:
    """Puts a checkpoint together in the work directory and renames it to OUT.

    Args:
        journal: holds every block.
        checkpoint: the source, whose sidecars go along.
        plan: shapes before and after.
        out: must not exist.
        source: name and digest, for the ``source`` entry of the manifest.
        recipe: its ``recipe`` entry.
        device: kind of device that computed.
        config: canonical one of the layers that are left; None where all of them are.
        quality: its ``quality`` entry; None takes the errors that the journal has of each layer.
    """
    staging, stock = gather(journal, checkpoint, plan.target, config)
    if quality is None:
        quality = {"layers": [_errors(journal, i) for i in range(len(plan.source.layers))]}
    manifest = describe(
        source={**source, "shape": plan.source.to_manifest()},
        recipe=recipe,
        shape=plan.target,
        counts=parameters(plan),
        quality=quality,
        device=device,
    )
    write_card(staging, CardFacts(manifest, plan.target, plan.source, checkpoint.directory, stock))
    seal(staging, manifest)
    publish(staging, out)


def _errors(journal: Journal, index: int) -> dict[str, Any]:
    """Relative output errors of a layer, for the manifest.

    To five digits: further ones depend on the number of threads, and equal runs give equal bytes.
    """
    record = journal.read_record(index)
    return {
        block: {k: float(f"{step[k]:.5g}") for k in ("truncated", "compensated", "damping")}
        for block in ("attention", "mlp")
        if (step := record.get(block))
    }
