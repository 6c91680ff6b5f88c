"""The exports of a recipe that are checkpoints of their own, made of the published release.

The core reaches the export package by name alone: imports run the other way.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import MANIFEST, Checkpoint, ConfigOnly
from slimgpt.compress.job import Job, export_stage
from slimgpt.compress.recipe_terms import in_recipe_terms
from slimgpt.compress.settings import Settings
from slimgpt.compress.stages import Stages
from slimgpt.destination import require_absent
from slimgpt.errors import IntegrityError, UsageError
from slimgpt.families import family_of
from slimgpt.planning import Plan
from slimgpt.release.recipe.recipe import Recipe
from slimgpt.release.recipe.sections import Export
from slimgpt.resources import resolve_device
from slimgpt.workspace import work_directory


def check_exports(
    recipe: Recipe, dense: Checkpoint, plan: Plan, settings: Settings, model: Path, out: Path
) -> None:
    """Refuses exports that can't be made of the planned model, before a weight is read.

    Raises:
        SlimGPTError: as the export would raise it, in the terms of the recipe.
    """
    exports = [(export, export.out.path) for export in recipe.exports if export.out]
    taken = [("MODEL", model), ("OUT", out), ("OUT's work", work_directory(out))]
    taken += [("--report", settings.report)] if settings.report else []
    for export, place in exports:
        with in_recipe_terms("exports"):
            _check_place(place, taken, published=out.exists())
            taken += [("another export", place), ("another export", work_directory(place))]
            if export.format == "stock":
                _check_stock(export, _planned(dense.meta, plan, out))
            elif export.format == "onnx":
                _check_onnx(export, recipe, _planned(dense.meta, plan, out), settings)
            else:
                _check_quantized(export, recipe, dense, plan, settings)


def make_export(job: Job, export: Export, stages: Stages) -> None:
    """Makes one export, unless an earlier part of this job did.

    Raises:
        UsageError: something else is at its place.
        IntegrityError: it was changed since it was made.
        SlimGPTError: as the export raises it, in the terms of the recipe.
    """
    assert export.out
    name, out = export_stage(export), export.out.path
    key = {
        "export": export.to_document(),
        "place": str(out.absolute()),
        "release": file_sha256(job.out / MANIFEST),
        "text": file_sha256(export.text.path) if export.text else None,
        "seed": job.recipe.seed,
        "dtype": job.settings.dtype,
    }
    begun = stages.begun(name, key)
    if out.exists() and not begun:
        raise UsageError(f"exports.out {out} exists: give one that does not, or remove it first")
    stages.begin(name, key)  # from here on, what stands there is ours

    def work() -> dict[str, Any]:
        if not out.exists() or work_directory(out).exists():
            _write(job, export, out, fresh=not begun)
        return {"manifest": file_sha256(out / MANIFEST)}

    with in_recipe_terms("exports"):
        made = stages.run(name, key, work) if out.exists() else stages.run_anew(name, key, work)
    if not (out / MANIFEST).is_file() or file_sha256(out / MANIFEST) != made["manifest"]:
        raise IntegrityError(f"{out} was changed since it was made: remove it and run again")


def _check_place(out: Path, taken: list[tuple[str, Path]], *, published: bool) -> None:
    for what, other in taken:
        inside = out.resolve().is_relative_to(other.resolve())
        if inside or other.resolve().is_relative_to(out.resolve()):
            raise UsageError(f"exports.out {out} and {what} {other} overlap: give another folder")
    if not published:  # else it may be one that an earlier part of this job made
        with in_recipe_terms("exports"):
            require_absent(out)


def _planned(dense: ConfigOnly, plan: Plan, out: Path) -> ConfigOnly:
    """What the config of the release will say."""
    written = dense.family.pruned_config(dense.config, plan.target)
    family = family_of(written)
    config = family.canonical(written)
    return replace(
        dense,
        directory=out,
        config=config,
        family=family,
        shape=plan.target,
        stored_type=str(written["model_type"]),
    )


def _check_stock(export: Export, planned: ConfigOnly) -> None:
    layout = import_module("slimgpt_export.layout").plan_layout(planned)
    if layout.padded and not export.pad:
        refusal: UsageError = import_module("slimgpt_export.stock_words").needs_padding(
            planned, layout
        )
        raise refusal
    import_module("slimgpt_export.parity").require_room(layout.shape)


def _check_onnx(export: Export, recipe: Recipe, planned: ConfigOnly, settings: Settings) -> None:
    options = _onnx_options(export, recipe, settings)
    import_module("slimgpt_export.onnx.packages").require_packages()
    import_module("slimgpt_export.onnx.job").require_exportable(planned, options)


def _onnx_options(export: Export, recipe: Recipe, settings: Settings) -> Any:
    document = export.to_document()
    given = {k: v for k, v in document.items() if k not in ("format", "out", "text")}
    return import_module("slimgpt_export.onnx.options").make_options(
        **given,
        text=export.text.path if export.text else None,
        seed=recipe.seed,
        # --device says where to prune and measure. An export is checked where it can run: one in
        # float32 on the CPU.
        device="cpu" if settings.device == "cpu" else "auto",
    )


def _check_quantized(
    export: Export, recipe: Recipe, dense: Checkpoint, plan: Plan, settings: Settings
) -> None:
    import torch

    packing: Any = import_module("slimgpt_export.quantize_llmcompressor")
    options = _quantize_options(export, recipe, settings)
    import_module("slimgpt_export.quantize_schemes").require_kernels(plan.target, options.target)
    packing.require_llmcompressor()
    device, gpu = resolve_device(settings.device), torch.accelerator.is_available()
    packing.require_device(settings.device, device.type, device.index, accelerator=gpu)
    import_module("slimgpt_export.quantize_quality").require_room(
        dense.meta, settings.device, settings.dtype
    )
    _check_data(options, dense, recipe)


def _check_data(options: Any, dense: Checkpoint, recipe: Recipe) -> None:
    """Local text is long enough for windows apart; the hub and the model itself are not asked."""
    if not all(f.path.is_file() for f in recipe.prune.calibration):
        return
    calibrated = options.target.scheme.calibrated
    data: Any = import_module("slimgpt_export.quantize_data")
    chosen = data.choose(dense, {}, options.data, calibrated=calibrated)
    import_module("slimgpt_export.quantize_windows").load_data(
        dense, chosen, options.data, calibrated=calibrated
    )


def _quantize_options(export: Export, recipe: Recipe, settings: Settings) -> Any:
    schemes: Any = import_module("slimgpt_export.quantize_schemes")
    prune = recipe.prune
    data = import_module("slimgpt_export.quantize_data").DataOptions(
        calibration=tuple(f.source for f in prune.calibration),
        samples=prune.samples,
        sequence_length=prune.sequence_length,
        seed=recipe.seed,
        text=export.text.path if export.text else None,
        window=export.window,
    )
    target = schemes.Target(
        schemes.SCHEMES[export.scheme], export.group_size, export.runs_on, export.tensor_parallel
    )
    options: Any = import_module("slimgpt_export.quantize_options")
    return options.QuantizeOptions(target, data, export.max_kl, settings.device, settings.dtype)


def _write(job: Job, export: Export, out: Path, *, fresh: bool) -> None:
    progress = job.part(export_stage(export))
    if export.format == "stock":
        stock: Any = import_module("slimgpt_export.stock")
        options = stock.StockOptions(export.pad, job.recipe.seed, job.settings.device, fresh)
        stock.export_stock(job.out, out, options, progress=progress)
    elif export.format == "onnx":
        onnx: Any = import_module("slimgpt_export.onnx.job")
        options = _onnx_options(export, job.recipe, job.settings)
        onnx.export_onnx(job.out, out, options, progress=progress)
    else:
        options = _quantize_options(export, job.recipe, job.settings)
        import_module("slimgpt_export.quantize").quantize(job.out, out, options, progress=progress)
