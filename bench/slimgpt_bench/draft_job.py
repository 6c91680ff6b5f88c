"""``slimgpt bench draft`` from its options to its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from slimgpt.progress import Progress
from slimgpt_bench.draft_result import DraftResult, judge
from slimgpt_bench.drafting import DraftOptions, Pair, check, measure
from slimgpt_bench.room import engine_need, free_bytes, side_by_side
from slimgpt_serve.preflight.artefact import read_artefact
from slimgpt_serve.preflight.installed import installed_vllm, platform_of, require_vllm
from slimgpt_serve.preflight.limits import require_servable
from slimgpt_serve.preflight.machine import visible
from slimgpt_serve.preflight.speculative import require_fitting_draft


def bench_draft(
    dense: tuple[str, Path],
    draft: tuple[str, Path],
    options: DraftOptions,
    device: str,
    environ: Mapping[str, str],
    progress: Progress,
    *,
    eager: bool | None,
) -> DraftResult:
    """Checks what can be checked before an engine starts, then measures.

    Args:
        dense: DENSE as the user gave it, and its directory.
        draft: the same of DRAFT.
        options: of the command; ``dtype`` may be ``auto``.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        environ: of this process.
        progress: watches.
        eager: nothing is compiled; None compiles on GPUs.

    Raises:
        UsageError: options that can't be met, or models that don't fit each other.
        IntegrityError: a model is damaged.
        EnvironmentProblem: vLLM is missing, memory is, or an engine died.
    """
    model, drafting = read_artefact(*dense), read_artefact(*draft)
    vllm = require_vllm(installed_vllm(), "slimgpt bench draft")
    platform = platform_of(device, vllm)
    pair = Pair(model, drafting, platform, {**environ, **visible(device, environ)})
    for artefact in (model, drafting):
        require_servable(artefact.name, artefact.meta, vllm.release)
    require_fitting_draft(model, drafting, platform)
    if options.dtype == "auto":
        stored = model.meta.dtype
        options = replace(options, dtype="float32" if platform == "cpu" else stored)
    options = replace(options, eager=platform == "cpu" if eager is None else eager)
    check(pair, options)
    needs = {
        k: engine_need(
            [model.shape, drafting.shape] if k else [model.shape],
            platform,
            options.dtype,
            texts=options.batch,
            context=options.context,
            step_tokens=options.step_tokens,
        )
        for k in (0, *options.draft_tokens)
    }
    together = side_by_side(list(needs.values()), free_bytes(platform, pair.environ))
    sizes = {k: need.kv_bytes for k, need in needs.items()}
    return judge(pair, options, measure(pair, options, sizes, progress, together=together))
