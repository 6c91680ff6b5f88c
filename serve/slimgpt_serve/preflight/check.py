"""Whether a model can be served on this machine, and how much of it: before anything heavy starts.

Nothing here imports torch or vLLM. On GPUs a child process asks them for their memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.resources import human_bytes
from slimgpt_serve.head_sizes import kernel_head_dim
from slimgpt_serve.parallel import require_attention, require_divisible, stage_bounds
from slimgpt_serve.preflight.artefact import Artefact
from slimgpt_serve.preflight.budget import cpu_budget, gpu_budget
from slimgpt_serve.preflight.findings import Preflight
from slimgpt_serve.preflight.installed import Vllm
from slimgpt_serve.preflight.limits import Context, context_of, own_class, require_servable
from slimgpt_serve.preflight.machine import Device, gpus
from slimgpt_serve.preflight.memory import (
    VALUE_BYTES,
    Footprint,
    footprint,
    largest,
    stage_shapes,
    step_sizes,
    whole_blocks,
)
from slimgpt_serve.preflight.speculative import require_fitting_draft
from slimgpt_serve.preflight.vllm_flags import VllmFlags


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

    @property
    def stages(self) -> int:
        """Of pipeline parallelism."""
        return max(1, self.flags.number("pipeline-parallel-size", self.flags.number("pp", 1)))

    @property
    def kv_bytes(self) -> int | None:
        """Of the KV cache, where vLLM's flag says."""
        return self.flags.number("kv-cache-memory-bytes", 0) or None

    @property
    def ranks(self) -> int:
        """Devices, or processes on a CPU."""
        return self.degree * self.stages


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
    if platform == "cuda":
        budget = gpu_budget(devices, wishes.ranks, wishes.utilization, held, wishes.kv_bytes)
    else:
        wanted = (wishes.context or 0) * held.kv_bytes_per_token
        budget = cpu_budget(environ, wishes.ranks, held, wishes.kv_bytes, wanted)
    found = Preflight(
        platform=platform,
        degree=wishes.degree,
        stages=wishes.stages,
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
        layers = artefact.shape.layers
        require_divisible(layers, wishes.degree, f"{artefact.name}: --tensor-parallel")
        if wishes.stages > len(layers):
            raise UsageError(
                f"{artefact.name} has {len(layers)} layers: give --pipeline-parallel-size at most "
                "that"
            )
        for start, end in stage_bounds(len(layers), wishes.stages):
            require_attention(layers, start, end)
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


def _held(
    model: Artefact, wishes: Wishes, platform: str, devices: list[Device], dtype: str
) -> Footprint:
    first = devices[0] if devices else Device(0, 0, "")
    tokens, sequences = step_sizes(platform, first.total_bytes, first.name, wishes.ranks)
    own = VALUE_BYTES[dtype]
    kv_dtype = wishes.flags.value("kv-cache-dtype") or "auto"
    packed = model.packed_bytes
    return largest(
        [
            footprint(
                stage,
                degree=wishes.degree,
                platform=platform,
                weight_bytes_per_value=own,
                kv_bytes_per_value=1 if kv_dtype[:3] == "fp8" else VALUE_BYTES.get(kv_dtype, own),
                step_tokens=wishes.flags.number("max-num-batched-tokens", tokens),
                step_sequences=wishes.flags.number("max-num-seqs", sequences),
                packed_bytes=packed and -(-packed // wishes.stages),
            )
            for stage in stage_shapes(model.shape, wishes.stages)
        ]
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
    if model.packed_bytes is not None and wishes.ranks > 1:
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
    fitted = wanted is None and served < context.default
    if fitted:
        notes += (
            f"the context is {served:,} tokens, the longest that fits: for more of the model's "
            f"{context.default:,} give {_more_room(found.platform)}",
        )
    # Of a GPU's memory vLLM takes things that only it can measure; a context between two limits is
    # another function (longrope), and is not left to it.
    measured = fitted and found.platform == "cuda" and context.limit == context.default
    if measured:
        notes += ("this is an estimate: vLLM measures the memory and takes the context that fits",)
    return replace(
        found, longest_context=longest, context=served, vllm_decides=measured, notes=notes
    )


def _more_room(platform: str) -> str:
    if platform == "cpu":
        return "a larger VLLM_CPU_KVCACHE_SPACE, or -- --kv-cache-dtype fp8"
    return "a higher --tensor-parallel or --gpu-memory-utilization, or -- --kv-cache-dtype fp8"
