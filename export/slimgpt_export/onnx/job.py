"""An ONNX export from beginning to end: built, checked against torch, described and published."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import slimgpt
from slimgpt.checkpoint.digest import require_finite, source_digest
from slimgpt.checkpoint.reader import CARD, MANIFEST, Checkpoint, ConfigOnly
from slimgpt.checkpoint.safety import read_json
from slimgpt.checkpoint.writer import copy_sidecars, publish, write_json
from slimgpt.loading import require_loadable
from slimgpt.progress import Progress, Silent, stage
from slimgpt.release.lineage import Lineage, read_lineage
from slimgpt.release.manifest import describe, rounded, seal
from slimgpt.resources import peak_rss_bytes, require_disk
from slimgpt.text import read_documents
from slimgpt.tokenizer import has_tokenizer, save_tokenizer
from slimgpt.workspace import Workspace, work_bytes
from slimgpt_export.onnx.build import GRAPH, require_known, write_graph
from slimgpt_export.onnx.card import render_card
from slimgpt_export.onnx.foreign import export_foreign
from slimgpt_export.onnx.genai import GENAI_CONFIG, genai_config
from slimgpt_export.onnx.geometry import Geometry, plan_geometry
from slimgpt_export.onnx.options import OnnxOptions, require_device
from slimgpt_export.onnx.packages import require_packages, versions
from slimgpt_export.onnx.parity import Parity, Twins, measure, require_parity, tokens_needed
from slimgpt_export.onnx.portable import require_exporter, require_whole, write_portable
from slimgpt_export.onnx.portable_model import known_family
from slimgpt_export.onnx.precision import Precision
from slimgpt_export.onnx.reference import reference_logits
from slimgpt_export.onnx.result import OnnxResult
from slimgpt_export.onnx.rope import context_length
from slimgpt_export.onnx.rounded_forward import AsInGraph, AsStored, Numbers
from slimgpt_export.onnx.sample import Sample, read_sample
from slimgpt_export.onnx.sensitivity import choose_higher, weight_bytes, windows_of
from slimgpt_export.onnx.size import FLOAT32, disk_bytes
from slimgpt_export.onnx.weights import in_format
from slimgpt_export.runs import fingerprint, make_once, require_places
from slimgpt_serve.onnx_runtime.artefact import CONCATENATED, IN_PLACE, SCHEMA


def export_onnx(
    model: Path,
    out: Path,
    options: OnnxOptions,
    *,
    source_name: str | None = None,
    progress: Progress | None = None,
) -> OnnxResult:
    """Writes an ONNX export and publishes it if its logits are the source's.

    Args:
        model: a dense or pruned checkpoint.
        out: must not exist; appears complete or not at all.
        options: how.
        source_name: how MODEL is called where it has no manifest; default its directory name.
        progress: watches.

    Raises:
        GateMissed: the graph is another function; nothing is published.
        SlimGPTError: every other expected failure; OUT is then untouched.
    """
    started = time.monotonic()
    require_packages()
    require_places(model, out)
    if options.text:
        read_documents(options.text, "--text")  # its faults are told before weights are read
    if not known_family(model):
        return export_foreign(model, out, options, progress or Silent(), started)
    checkpoint = Checkpoint(model)
    require_loadable(checkpoint.meta)
    require_exportable(checkpoint.meta, options)
    run = _Run(checkpoint, out, options, source_name or model.resolve().name, progress or Silent())
    return run.execute(started)


def require_exportable(meta: ConfigOnly, options: OnnxOptions) -> None:
    """Refuses what can't be written, before a weight is read.

    Raises:
        UsageError: the model or the precision is not for this route.
        EnvironmentProblem: a package that it needs is missing.
    """
    require_device(options)
    if options.portable:
        require_exporter()
        require_whole(options.precision)
    else:
        require_known(meta)
    plan_geometry(meta.shape, options.precision)


class _Run:
    """One run: everything that is known before the first weight is rounded."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        out: Path,
        options: OnnxOptions,
        name: str,
        progress: Progress,
    ) -> None:
        self.checkpoint, self.out, self.options = checkpoint, out, options
        self.progress = progress
        total = sum(path.stat().st_size for path in checkpoint.files)
        with stage(progress, "checking weights", total):
            require_finite(checkpoint, progress.advance)
        self.digest = source_digest(checkpoint)
        self.lineage: Lineage = read_lineage(checkpoint, name, self.digest)
        self.recipe = dict(self.lineage.recipe) | {"export": self._asked()}

    def execute(self, started: float) -> OnnxResult:
        """Runs to the end."""
        shape, precision = self.checkpoint.shape, self.options.precision
        needed = disk_bytes(self.checkpoint, self.options) - work_bytes(self.out)
        require_disk(self.out.parent, needed, "the ONNX export")
        make_once(self.out, fingerprint(self.recipe, self.lineage, "cpu"), self._make)
        manifest = read_json(self.out / MANIFEST)
        measured = manifest["quality"]["export"]
        return OnnxResult(
            out=self.out,
            precision=replace(precision, higher=measured.get("higher", {})),
            geometry=plan_geometry(shape, precision),
            weight_bytes=sum(p.stat().st_size for p in self.out.glob(f"{GRAPH}.data*")),
            measured=measured,
            seconds=time.monotonic() - started,
            peak_rss_bytes=peak_rss_bytes(),
        )

    def _asked(self) -> dict[str, Any]:
        """The ``recipe.export`` entry."""
        options, precision = self.options, self.options.precision
        entry: dict[str, Any] = {
            "format": "onnx",
            "precision": precision.name,
            "activations": precision.activations,
            "portable": options.portable,
            "model_digest": self.digest,
            "seed": options.seed,
        }
        if precision.quantized:
            entry |= {
                "block_size": precision.block_size,
                "symmetric": precision.symmetric,
                "accuracy_level": precision.accuracy_level,
                "keep": "auto" if options.keep is None else list(options.keep),
            }
        before = self.lineage.recipe.get("export")
        if isinstance(before, Mapping) and "padded" in before:  # the counts hold the zeros still
            entry["padded"] = before["padded"]
        return entry | versions()

    def _make(self, work: Workspace) -> None:
        meta, staging = self.checkpoint.meta, work.staging()
        least = tokens_needed(meta)
        options = self.options
        sample = read_sample(
            meta.directory, meta.shape.vocab_size, options.text, options.seed, least
        )
        precision, choice = self._choose(sample)
        if options.portable:  # the other route looks at each tensor when it writes it
            for name, tensor in self.checkpoint.stored():
                in_format(name, tensor, precision)
        copy_sidecars(self.checkpoint, staging)
        write_json(staging / "config.json", read_json(meta.directory / "config.json"))
        if has_tokenizer(meta.directory):
            # It is read as it is here and by GenAI; transformers rebuilds parts of some.
            save_tokenizer(meta.directory, staging)
        geometry, context = plan_geometry(meta.shape, precision), context_length(meta)
        if not self.options.portable:  # GenAI takes caches in place
            write_json(staging / GENAI_CONFIG, genai_config(meta, geometry, GRAPH, context))
        write = self._writer(precision, self._metadata(geometry, precision, context))
        write(staging, None)
        twins = Twins(
            partial(self._torch_logits, precision), lambda folder: write(folder, torch.float32)
        )
        text = Sample(sample.ids[:least], sample.text)
        parity = measure(staging, precision, twins, text, self.options.device, self.progress)
        require_parity(parity, precision)
        self._publish(staging, parity, choice)

    def _writer(
        self, precision: Precision, metadata: Mapping[str, str]
    ) -> Callable[[Path, torch.dtype | None], None]:
        """What writes the graph into a folder, to compute in another number format if asked."""

        def write(folder: Path, dtype: torch.dtype | None) -> None:
            if self.options.portable:
                source = self.checkpoint.directory
                write_portable(source, precision, folder, dtype=dtype, metadata=metadata)
            else:
                advance = self.progress.advance
                write_graph(
                    self.checkpoint,
                    precision,
                    folder,
                    dtype=dtype,
                    metadata=metadata,
                    advance=advance,
                )

        def watched(folder: Path, dtype: torch.dtype | None) -> None:
            stored = precision if dtype is None else replace(precision, activations=FLOAT32)
            with stage(self.progress, "writing graph", weight_bytes(self.checkpoint, stored)):
                write(folder, dtype)

        return watched

    def _torch_logits(self, precision: Precision, ids: Tensor, kept: int, rounded: bool) -> Tensor:
        numbers: Numbers = AsStored(self.checkpoint)
        if rounded:
            numbers = AsInGraph(self.checkpoint, precision)
        with stage(self.progress, "running torch", len(self.checkpoint.shape.layers)):
            advance = self.progress.advance
            return reference_logits(self.checkpoint, numbers, ids, kept, advance)

    def _choose(self, sample: Sample) -> tuple[Precision, Mapping[str, Any]]:
        """What stays at higher precision, and what was measured to decide it."""
        precision, options = self.options.precision, self.options
        if not precision.quantized:
            return precision, {}
        windows = windows_of(sample.ids, context_length(self.checkpoint.meta))
        choice = choose_higher(
            self.checkpoint, precision, windows, self.progress, keep=options.keep
        )
        return replace(precision, higher=choice.higher), choice.to_json()

    def _metadata(self, geometry: Geometry, precision: Precision, context: int) -> dict[str, str]:
        return {
            "slimgpt.schema": SCHEMA,
            "slimgpt.version": slimgpt.__version__,
            "slimgpt.source": self.digest,
            "slimgpt.precision": precision.name,
            "slimgpt.shape": json.dumps(geometry.source.to_manifest()),
            "slimgpt.head_dim": str(geometry.graph.head_dim),
            "slimgpt.context_length": str(context),
            "slimgpt.cache": CONCATENATED if self.options.portable else IN_PLACE,
        }

    def _publish(self, staging: Path, parity: Parity, choice: Mapping[str, Any]) -> None:
        with stage(self.progress, "writing export", 1):
            meta, lineage = self.checkpoint.meta, self.lineage
            measured = {"parity": parity.to_json(), **choice}
            manifest = describe(
                source=lineage.source,
                recipe=self.recipe,
                shape=meta.shape,
                counts=lineage.counts,
                quality=dict(lineage.quality) | {"export": rounded(measured)},
                device="cpu",
            )
            (staging / CARD).write_text(render_card(manifest, meta.directory), "utf-8")
            seal(staging, manifest)
            publish(staging, self.out)
            self.progress.advance()
