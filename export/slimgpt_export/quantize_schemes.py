"""The schemes of ``export quantized``, and which widths their kernels take. No torch.

A kernel that refuses a width says so when the model is served, long after it was made. So the
widths are held against its rules first. The rules are those of vLLM 0.32.0, which fuses q, k and v
into one matrix, and gate and up into another, and cuts every matrix for tensor parallelism; a rule
counts for what each device gets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from slimgpt.errors import UsageError
from slimgpt.shape import LayerShape, ModelShape

DEFAULT_GROUP_SIZE = 128
GROUP_SIZES = (32, 64, 128)
"""What Marlin takes: ``MARLIN_SUPPORTED_GROUP_SIZES`` of ``quantization/utils/marlin_utils.py``."""

RUNS_ON = ("gpu", "cpu")
_AMX_TILE = 32
_CUTLASS_TILE = 16
_MARLIN_TILES = ((64, 128), (128, 64))


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the matrices of the decoder layers are stored and multiplied.

    Attributes:
        name: as ``--scheme`` has it.
        words: what it is, for people.
        calibrated: weights are rounded by GPTQ, which needs text.
        grouped: a scale counts for a group of inputs, not for a whole row.
    """

    name: str
    words: str
    calibrated: bool = True
    grouped: bool = False


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp8", "FP8 weights by row, FP8 activations by token", calibrated=False),
        Scheme("w8a8", "INT8 weights by row (GPTQ), INT8 activations by token"),
        Scheme("w4a16", "INT4 weights in groups (GPTQ)", grouped=True),
    )
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how the result is to be served.

    Attributes:
        scheme: one of SCHEMES.
        group_size: inputs that share a scale; only where the scheme is grouped.
        runs_on: ``gpu`` (NVIDIA) or ``cpu``.
        tensor_parallel: devices that share every layer.
    """

    scheme: Scheme
    group_size: int = DEFAULT_GROUP_SIZE
    runs_on: str = "gpu"
    tensor_parallel: int = 1


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix as one device has it.

    Attributes:
        layer: number of the decoder layer.
        name: of its projections.
        inputs: values that it reads.
        outputs: values that it writes.
    """

    layer: int
    name: str
    inputs: int
    outputs: int


def matrices(shape: ModelShape, tensor_parallel: int = 1) -> list[Matrix]:
    """Every matrix that is quantised, fused and cut as vLLM does; absent sub-blocks have none."""
    found = []
    for index, layer in enumerate(shape.layers):
        queries = layer.query_heads // tensor_parallel * shape.head_dim
        # With fewer KV heads than devices, each device keeps a whole one.
        kv = max(layer.kv_heads // tensor_parallel, 1) * shape.head_dim
        ffn = layer.ffn // tensor_parallel
        if layer.has_attention:
            found.append(Matrix(index, "q/k/v_proj", shape.hidden_size, queries + 2 * kv))
            found.append(Matrix(index, "o_proj", queries, shape.hidden_size))
        if layer.has_ffn:
            found.append(Matrix(index, "gate/up_proj", shape.hidden_size, 2 * ffn))
            found.append(Matrix(index, "down_proj", ffn, shape.hidden_size))
    return found


def refusal(matrix: Matrix, target: Target) -> str | None:
    """Why vLLM does not load a matrix; None where it does.

    Sources, below ``vllm/model_executor`` of 0.32.0:

    * INT4, everywhere: whole groups on each device
      (``compressed_tensors_wNa16.py``, ``verify_group_size_divides_partition``). Marlin itself
      takes every width that does: it pads the rest.
    * INT4 on CPUs: multiples of 32 both ways (``kernels/linear/mixed_precision/cpu.py``).
    * INT8 on CPUs with AMX: ``check_cpu_sgl_kernel`` (``layers/utils.py``) sends inputs of 32 and
      outputs of 16 to a kernel whose packing then demands outputs of 32 (``Expected N == BLOCK_N``,
      found by calling ``convert_weight_packed``). All other widths go to oneDNN, which takes any,
      and so do all widths on CPUs without AMX.
    * INT8 and FP8 on GPUs: CUTLASS pads or hands over to Triton (``_custom_ops.py``,
      ``cutlass_scaled_mm``; ``kernels/linear/scaled_mm/cutlass.py``). FP8 on CPUs:
      ``torch._scaled_mm``. Any width. INT8 of widths that CUTLASS takes does not run on Blackwell
      (vllm-project/vllm#54311), which is no matter of widths.
    """
    group = target.group_size
    on_cpu = target.runs_on == "cpu"
    if target.scheme.grouped and matrix.inputs % group:
        return f"reads {matrix.inputs} values, no multiple of --group-size {group}"
    if target.scheme.grouped and on_cpu and (matrix.inputs % 32 or matrix.outputs % 32):
        return (
            f"is {matrix.outputs} x {matrix.inputs}, and the INT4 kernel for CPUs takes multiples "
            "of 32"
        )
    half_tile = not matrix.inputs % _AMX_TILE and matrix.outputs % _AMX_TILE == _AMX_TILE // 2
    if target.scheme.name == "w8a8" and on_cpu and half_tile:
        return (
            f"writes {matrix.outputs} values, 16 more than a multiple of 32, which the INT8 kernel "
            "for CPUs with AMX does not take"
        )
    return None


def is_padded(matrix: Matrix, target: Target) -> bool:
    """Whether a GPU kernel fills a matrix up, or gives way to a slower one.

    Marlin's tiles: ``marlin_padded_nk`` of ``quantization/utils/marlin_utils.py``. CUTLASS: see
    :func:`refusal`.
    """
    if target.runs_on != "gpu":
        return False
    if target.scheme.grouped:
        return all(matrix.outputs % n or matrix.inputs % k for n, k in _MARLIN_TILES)
    return bool(matrix.outputs % _CUTLASS_TILE or matrix.inputs % _CUTLASS_TILE)


def require_kernels(shape: ModelShape, target: Target) -> int:
    """Refuses widths that a kernel refuses.

    Returns:
        matrices that are served, but padded or by a slower kernel.

    Raises:
        UsageError: with layer, width, rule and the ways out.
    """
    _check_options(target)
    _require_divisible(shape, target.tensor_parallel)
    found = matrices(shape, target.tensor_parallel)
    if not found:
        raise UsageError("MODEL has neither attention nor FFN: there is nothing to quantise")
    refused = [(matrix, why) for matrix in found if (why := refusal(matrix, target))]
    if refused:
        matrix, why = refused[0]
        more = f" (and {len(refused) - 1} more like it)" if len(refused) > 1 else ""
        parts = target.tensor_parallel
        each = f" on each of {parts} devices" if parts > 1 else ""
        raise UsageError(
            f"--scheme {target.scheme.name}: layer {matrix.layer} {matrix.name}{each} {why}{more}: "
            f"{_ways_out(shape, target)}"
        )
    return sum(is_padded(matrix, target) for matrix in found)


def _check_options(target: Target) -> None:
    if target.group_size not in GROUP_SIZES:
        raise UsageError(
            f"--group-size {target.group_size}: give {', '.join(map(str, GROUP_SIZES))}, which "
            "vLLM's kernels take"
        )
    if not target.scheme.grouped and target.group_size != DEFAULT_GROUP_SIZE:
        raise UsageError(
            f"--group-size goes with --scheme w4a16: {target.scheme.name} has one scale a row"
        )
    if target.tensor_parallel < 1:
        raise UsageError(
            f"--tensor-parallel {target.tensor_parallel}: give a positive whole number, like 2"
        )


def _require_divisible(shape: ModelShape, parts: int) -> None:
    """vLLM: heads and FFN split evenly; KV heads do, or are kept whole on several devices."""
    for index, layer in enumerate(shape.layers):
        shared = not layer.has_attention or not (layer.kv_heads % parts and parts % layer.kv_heads)
        if layer.query_heads % parts or layer.ffn % parts or not shared:
            raise UsageError(
                f"--tensor-parallel {parts} does not divide layer {index} ({layer.query_heads} "
                f"query heads, {layer.kv_heads} KV heads, FFN {layer.ffn}): prune with slimgpt "
                f"prune --tensor-parallel {parts}"
            )


def _ways_out(shape: ModelShape, target: Target) -> str:
    return "give " + (", or ".join(_offers(shape, target)) or "a model of other widths")


def _offers(shape: ModelShape, target: Target) -> Iterator[str]:
    """Everything near that works on these widths, and the widths that would work."""
    groups = [n for n in GROUP_SIZES if n <= target.group_size]
    works = [n for n in groups if _works(shape, replace(target, group_size=n))]
    if works:
        yield f"--group-size {works[-1]}"
    others = [
        name
        for name, scheme in SCHEMES.items()
        if scheme != target.scheme
        and _works(shape, replace(target, scheme=scheme, group_size=DEFAULT_GROUP_SIZE))
    ]
    if others:
        yield f"--scheme {' or '.join(others)}"
    for group in reversed(groups if target.scheme.grouped else groups[-1:]):
        if group in works:
            break  # the largest groups that work are offered already
        if align := _align(shape, replace(target, group_size=group)):
            with_group = f" and --group-size {group}" if group < target.group_size else ""
            yield f"a MODEL made with slimgpt prune --align {align}{with_group}"
            break


def _align(shape: ModelShape, target: Target) -> int | None:
    """The ``--align`` of FFN widths with which a model of the same heads works."""
    align = (target.group_size if target.scheme.grouped else 16) * target.tensor_parallel
    aligned = tuple(_aligned(layer, align) for layer in shape.layers)
    return align if _works(shape.with_layers(aligned), target) else None


def _aligned(layer: LayerShape, multiple: int) -> LayerShape:
    """The layer with the next FFN width that is a multiple."""
    return replace(layer, ffn=-(-layer.ffn // multiple) * multiple)


def _works(shape: ModelShape, target: Target) -> bool:
    return not any(refusal(m, target) for m in matrices(shape, target.tensor_parallel))
