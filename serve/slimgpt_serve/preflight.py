"""Whether a model can be served on this machine, and how much of it: before anything heavy starts.

Nothing here imports torch or vLLM. On GPUs a child process asks them for their memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.resources import human_bytes
from slimgpt_serve.artefact import Artefact
from slimgpt_serve.budget import cpu_budget, gpu_budget
from slimgpt_serve.findings import Preflight
from slimgpt_serve.head_sizes import kernel_head_dim
from slimgpt_serve.installed import Vllm
from slimgpt_serve.limits import Context, context_of, own_class, require_servable
from slimgpt_serve.machine import Device, gpus
from slimgpt_serve.memory import Footprint, footprint, step_sizes, whole_blocks
from slimgpt_serve.parallel import require_divisible
from slimgpt_serve.speculative import require_fitting_draft
from slimgpt_serve.vllm_flags import VllmFlags

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for.

    Attributes:
        degree: of tensor parallelism.
        context: tokens, or None for as many as can be.
        utilization: share of each GPU's memory.
        dtype: to compute in; ``auto`` is the stored one.
        flags: vLLM's own.
    """

    degree: int
    context: int | None
    utilization: float
    dtype: str
    flags: VllmFlags


def preflight(
    model: Artefact,
    draft: Artefact | None,
    wishes: Wishes,
    platform: str,
    vllm: Vllm | None,
    environ: Mapping[str, str],
) -> Preflight:
    """Checks everything that can be known of a server before it starts.

    Args:
        model: to be served.
        draft: for speculative decoding.
        wishes: of the user.
        platform: ``cpu`` or ``cuda``.
        vllm: that is installed; a dry run can do without.
        environ: of the server.

    Raises:
        UsageError: the model can't be served so on any machine.
        EnvironmentProblem: not on this one.
    """
    context = _servable(model, draft, wishes, platform, vllm)
    if wishes.context is not None and wishes.context > context.limit:
        raise UsageError(
            f"--max-model-len {wishes.context} is beyond the context of "
            f"{'MODEL and --draft' if draft else 'MODEL'}, {context.limit}: give at most that"
        )
    # All GPUs are asked once; a CPU has none to ask.
    devices = gpus(environ) if platform == "cuda" else []
    dtype = model.meta.dtype if wishes.dtype == "auto" else wishes.dtype
    held = _held(model, wishes, platform, devices, dtype)
    if draft:
        held += _held(draft, wishes, platform, devices, dtype)  # vLLM drafts in the same type
    kv = wishes.flags.number("kv-cache-memory-bytes", 0) or None
    if platform == "cuda":
        budget = gpu_budget(devices, wishes.degree, wishes.utilization, held, kv)
    else:
        wanted = (wishes.context or 0) * held.kv_bytes_per_token
        budget = cpu_budget(environ, wishes.degree, held, kv, wanted)
    found = Preflight(
        platform=platform,
        degree=wishes.degree,
        dtype=dtype,
        held=held,
        budget=budget,
        kv_tokens=whole_blocks(budget.kv_bytes, held.kv_bytes_per_token, platform),
        longest_context=0,
        context=0,
        model_context=context.limit,
        architecture=own_class(model.meta, platform),
        notes=_notes(model, context, wishes, platform),
    )
    return _with_context(found, context, wishes.context)


def _servable(
    model: Artefact, draft: Artefact | None, wishes: Wishes, platform: str, vllm: Vllm | None
) -> Context:
    """Refuses what vLLM can't run; the context that model and draft share."""
    release = vllm.release if vllm else None
    for artefact in filter(None, (model, draft)):
        require_servable(artefact.name, artefact.meta, release)
        try:
            require_divisible(artefact.shape.layers, wishes.degree)
        except UsageError as reason:
            raise UsageError(f"{artefact.name}: --{_hyphened(str(reason))}") from None
    context = context_of(model.meta)
    if draft:
        require_fitting_draft(model, draft, platform)
        drafted = context_of(draft.meta)
        context = replace(
            context,
            limit=min(context.limit, drafted.limit),
            default=min(context.default, drafted.default),
        )
    return context


def _hyphened(message: str) -> str:
    """vLLM's own users read ``tensor parallel``; ours know the option."""
    return message.replace("tensor parallel", "tensor-parallel", 1)


def _held(
    model: Artefact, wishes: Wishes, platform: str, devices: list[Device], dtype: str
) -> Footprint:
    first = devices[0] if devices else Device(0, 0, "")
    tokens, sequences = step_sizes(platform, first.total_bytes, first.name, wishes.degree)
    value_bytes = BYTES[dtype]
    kv_dtype = wishes.flags.value("kv-cache-dtype") or "auto"
    return footprint(
        model.shape,
        degree=wishes.degree,
        platform=platform,
        weight_bytes_per_value=value_bytes,
        kv_bytes_per_value=1 if kv_dtype.startswith("fp8") else BYTES.get(kv_dtype, value_bytes),
        step_tokens=wishes.flags.number("max-num-batched-tokens", tokens),
        step_sequences=wishes.flags.number("max-num-seqs", sequences),
        packed_bytes=model.packed_bytes,
    )


def _notes(model: Artefact, context: Context, wishes: Wishes, platform: str) -> tuple[str, ...]:
    notes = []
    if context.note:
        notes.append(context.note)
    wide = kernel_head_dim(model.shape.head_dim, platform)
    if wide != model.shape.head_dim:
        notes.append(
            f"vLLM's CPU kernels take no heads of {model.shape.head_dim}: they are widened to "
            f"{wide}, in the KV cache too"
        )
    meta = model.meta
    windows = {meta.family.sliding_window(meta.config, i) for i in range(len(meta.shape.layers))}
    if len(windows) > 1:
        notes.append(
            "some layers have windows: vLLM shares the cache out by groups of layers, and may hold "
            "another number of tokens"
        )
    if model.packed_bytes is not None and wishes.degree > 1:
        notes.append("weights are quantised: what each device holds is their size shared out")
    return tuple(notes)


def _with_context(found: Preflight, context: Context, wanted: int | None) -> Preflight:
    """Decides the context: what was asked for, the model's own, or the longest that fits."""
    longest = min(context.limit, found.kv_tokens)
    if longest < 1:
        raise EnvironmentProblem(
            f"the KV cache of {human_bytes(found.budget.kv_bytes)} holds not one token: give it "
            "more memory"
        )
    if wanted is not None and wanted > longest:
        needed = human_bytes(wanted * found.held.kv_bytes_per_token)
        raise EnvironmentProblem(
            f"--max-model-len {wanted} needs {needed} of KV cache on each device, and there are "
            f"{human_bytes(found.budget.kv_bytes)}: give at most {longest}, "
            f"{_more_room(found.platform)}"
        )
    served = wanted or min(context.default, longest)
    notes = found.notes
    if wanted is None and served < context.default:
        notes += (
            f"the context is {served:,} tokens, the longest that fits: for more of the model's "
            f"{context.default:,} give {_more_room(found.platform)}",
        )
    return replace(found, longest_context=longest, context=served, notes=notes)


def _more_room(platform: str) -> str:
    if platform == "cpu":
        return "a larger VLLM_CPU_KVCACHE_SPACE, or -- --kv-cache-dtype fp8"
    return "a higher --tensor-parallel or --gpu-memory-utilization, or -- --kv-cache-dtype fp8"
