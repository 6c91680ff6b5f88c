"""``export quantized``: check the widths, quantise, read back, measure, publish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import source_digest
from slimgpt.checkpoint.reader import CARD, INDEX, Checkpoint, read_config
from slimgpt.checkpoint.safety import read_json
from slimgpt.checkpoint.writer import copy_sidecars, publish, write_json
from slimgpt.errors import UsageError
from slimgpt.loading import load_model, require_loadable, require_stock_code
from slimgpt.progress import Progress, Silent, stage
from slimgpt.release.lineage import Lineage, read_lineage
from slimgpt.release.manifest import describe, read_manifest, seal
from slimgpt.resources import peak_rss_bytes, require_disk, resolve_device
from slimgpt.workspace import Workspace, work_bytes
from slimgpt_export.quantize_card import render_card
from slimgpt_export.quantize_data import Chosen, choose
from slimgpt_export.quantize_llmcompressor import (
    Packed,
    pack,
    require_device,
    require_llmcompressor,
    versions,
)
from slimgpt_export.quantize_options import QuantizeOptions, QuantizeResult
from slimgpt_export.quantize_quality import (
    describe_quality,
    require_kl,
    require_room,
    score,
)
from slimgpt_export.quantize_schemes import require_kernels
from slimgpt_export.quantize_windows import Data, load_data
from slimgpt_export.runs import fingerprint, make_once, require_places


def quantize(
    model: Path,
    out: Path,
    options: QuantizeOptions,
    *,
    source_name: str | None = None,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Quantises a checkpoint, dense or pruned, and publishes it.

    The whole model is in memory, and twice where it is measured.

    Args:
        model: the checkpoint.
        out: must not exist; appears complete or not at all.
        options: how.
        source_name: how MODEL is called where it has no manifest; default its directory name.
        progress: watches.

    Raises:
        GateMissed: the divergence is above ``max_kl``; nothing is published.
        SlimGPTError: every other expected failure; OUT is then untouched.
    """
    started = time.monotonic()
    require_places(model, out)
    # config.json alone: widths that no kernel takes are told before a weight is read.
    meta = read_config(model)
    padded = require_kernels(meta.shape, options.target)
    if options.max_kl is not None and not options.max_kl >= 0:
        raise UsageError(f"--max-kl {options.max_kl:g}: give a number of at least 0")
    require_llmcompressor()
    _require_device(options.device)
    checkpoint = Checkpoint(model)
    require_loadable(checkpoint.meta)
    require_stock_code(checkpoint.meta)
    require_room(checkpoint.meta, options.device, options.dtype)
    run = _Run(checkpoint, out, options, source_name or model.resolve().name, progress or Silent())
    return QuantizeResult(
        out,
        options.target.scheme.name,
        run.execute(),
        padded,
        time.monotonic() - started,
        peak_rss_bytes(),
    )


def _require_device(name: str) -> None:
    import torch

    device = resolve_device(name)
    require_device(name, device.type, device.index, accelerator=torch.accelerator.is_available())


class _Run:
    """One run: everything that is known before the first weight is read."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        out: Path,
        options: QuantizeOptions,
        name: str,
        progress: Progress,
    ) -> None:
        self.checkpoint, self.out, self.options = checkpoint, out, options
        self.progress = progress
        recipe = (read_manifest(checkpoint.directory) or {}).get("recipe")
        chosen = choose(
            checkpoint,
            recipe if isinstance(recipe, Mapping) else {},
            options.data,
            calibrated=options.target.scheme.calibrated,
        )
        self.data = self._load(chosen)
        self.digest = source_digest(checkpoint)
        self.lineage: Lineage = read_lineage(checkpoint, name, self.digest)
        self.recipe = dict(self.lineage.recipe) | {"quantization": self._quantization()}
        self.device = resolve_device(options.device).type

    def execute(self) -> Mapping[str, Any]:
        """Runs to the end and returns the ``quality.quantization`` entry of the manifest."""
        meta = self.checkpoint.meta
        before = meta.shape.weight_bytes(meta.bytes_per_value)
        require_disk(self.out.parent, before - work_bytes(self.out), "the quantised checkpoint")
        mark = fingerprint(self.recipe, self.lineage, self.device)
        make_once(self.out, mark, lambda work: self._make(work, before))
        measured: Mapping[str, Any] = (read_manifest(self.out) or {})["quality"]["quantization"]
        return measured

    def _load(self, chosen: Chosen) -> Data:
        return load_data(
            self.checkpoint,
            chosen,
            self.options.data,
            calibrated=self.options.target.scheme.calibrated,
            device=self.options.device,
            progress=self.progress,
        )

    def _quantization(self) -> dict[str, Any]:
        """The ``recipe.quantization`` entry."""
        target = self.options.target
        return {
            "scheme": target.scheme.name,
            **({"group_size": target.group_size} if target.scheme.grouped else {}),
            "runs_on": target.runs_on,
            "tensor_parallel": target.tensor_parallel,
            **self.data.describe(),
            "model_digest": self.digest,
            **versions(),
        }

    def _make(self, work: Workspace, before: int) -> None:
        staging = work.staging()
        packed = self._pack(work.directory / "packed", staging)
        if packed.warning:
            self.progress.message(f"llm-compressor: {packed.warning}")
        settings = {"quantization_config": packed.settings}
        write_json(
            staging / "config.json",
            read_json(self.checkpoint.directory / "config.json") | settings,
        )
        copy_sidecars(self.checkpoint, staging)
        options = self.options
        quality = score(
            staging,
            self.checkpoint.directory,
            self.data,
            device=options.device,
            dtype=options.dtype,
            progress=self.progress,
        )
        require_kl(quality, options.max_kl)
        self._publish(staging, describe_quality(quality, self.data, staging, before))

    def _pack(self, folder: Path, staging: Path) -> Packed:
        """Quantises, and keeps the weights of what llm-compressor writes: our config stays."""
        meta, target = self.checkpoint.meta, self.options.target
        windows = self.data.calibration.windows if self.data.calibration else None
        # In the stored type and in memory: llm-compressor takes one layer at a time to the GPU.
        model, _ = load_model(meta.directory, device="cpu", dtype=meta.dtype)
        folder.mkdir()
        packed = pack(model, target.scheme, target.group_size, windows, folder, self.progress)
        usual = (folder / "config.json").stat().st_mode
        for path in (*folder.glob("*.safetensors"), *folder.glob(INDEX)):
            path.chmod(usual)  # safetensors makes files that only their owner may read
            path.rename(staging / path.name)
        return packed

    def _publish(self, staging: Path, measured: dict[str, Any]) -> None:
        with stage(self.progress, "writing checkpoint", 1):
            meta, lineage = self.checkpoint.meta, self.lineage
            manifest = describe(
                source=lineage.source,
                recipe=self.recipe,
                shape=meta.shape,
                counts=lineage.counts,
                quality=dict(lineage.quality) | {"quantization": measured},
                device=self.device,
            )
            stock = meta.stored_type != meta.family.pruned_model_type
            card = render_card(manifest, meta.directory, stock=stock)
            (staging / CARD).write_text(card, "utf-8")
            seal(staging, manifest)
            publish(staging, self.out)
            self.progress.advance()
