"""Is the graph the same function: its logits against torch's, on real text, prefill and decode.

torch computes with the numbers that the graph has, so that the difference is the graph's alone;
what rounding has changed is told beside it, against the weights of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import GateMissed, IntegrityError, UsageError
from slimgpt.progress import Progress
from slimgpt_export.onnx.graph_logits import COMPARED, STEPS, run_graph, way_out
from slimgpt_export.onnx.precision import Precision
from slimgpt_export.onnx.rope import context_length, length_switch
from slimgpt_export.onnx.sample import Sample

_PROMPT = 96
_LONGEST_WINDOW = 2**15
"""Attention costs the square of the tokens: no model in use has a longer window that counts."""

LIMITS = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Largest difference allowed, in standard deviations of the logits, by what the graph computes in.

Found on tiny models, random ones and the embedded one: float32 up to 7e-6, float16 up to 0.02, and
bfloat16, computed in torch, up to 0.19 (ONNX Runtime has no bfloat16 for CPUs, where its weights
are checked in a float32 graph). A graph with one head in another's place is apart by 2 and more.
"""
QUANTIZED_LIMIT = 0.5
"""The same for quantised weights.

Found: 1e-5 where kernels round activations to int8 as torch does here, and 0.23 where they do not,
or round those close to a half to the other side.
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far logits are apart at some positions.

    Attributes:
        largest: of two logits, in standard deviations of torch's.
        mean: as above, over all logits.
        agreement: share of positions with the same likeliest token.
        positions: compared.
    """

    largest: float
    mean: float
    agreement: float
    positions: int


@dataclass(frozen=True, slots=True)
class Parity:
    """What was found.

    Attributes:
        prefill: the last positions of a prompt.
        decode: one token at a time behind it.
        tokens: of prompt and answer.
        text: that they are of.
        provider: execution provider of ONNX Runtime.
        computed_in: number format of the checked graph's activations.
        rounding: what quantised weights cost; None where they are not quantised.
    """

    prefill: Difference
    decode: Difference
    tokens: int
    text: str
    provider: str
    computed_in: str
    rounding: Rounding | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rounding:
    """The graph against torch with the weights of the checkpoint.

    Attributes:
        kl: mean KL(checkpoint || graph) of the predictions, nats.
        agreement: share of positions with the same likeliest token.
        positions: compared.
    """

    kl: float
    agreement: float
    positions: int


def tokens_needed(meta: ConfigOnly) -> int:
    """Prompt and decode steps, two at least: beyond a sliding window, as the context allows.

    Before its end, all windows look the same. longrope has other angles from some length on, and
    takes old keys as they are: the text stays on one side of it.
    """
    context = context_length(meta)
    windows = (meta.family.sliding_window(meta.config, i) for i in range(len(meta.shape.layers)))
    counting = [w for w in windows if w and w < context and w <= _LONGEST_WINDOW]
    wanted = min(max(_PROMPT, *(w + COMPARED for w in counting), 0) + STEPS, context)
    switch = length_switch(meta)
    if switch is not None and wanted - STEPS <= switch < wanted:
        return max(switch, min(STEPS + 2, wanted))
    return wanted


def usual_tokens(context: int | None) -> int:
    """Of a model whose windows are not known."""
    return min(_PROMPT + STEPS, context or _PROMPT + STEPS)


@dataclass(frozen=True, slots=True)
class Twins:
    """What a graph is set beside.

    Attributes:
        torch_logits: of a text's last positions (kept, vocabulary), with the numbers that the graph
            has, or else with the checkpoint's own.
        in_float32: writes the graph into a folder once more, to compute in float32 with the weights
            as they are rounded.
    """

    torch_logits: Callable[[Tensor, int, bool], Tensor]
    in_float32: Callable[[Path], None]


def measure(
    folder: Path,
    precision: Precision,
    twins: Twins,
    sample: Sample,
    device: str,
    progress: Progress,
) -> Parity:
    """Runs a written graph and torch on the same tokens.

    Args:
        folder: holds the graph.
        precision: of its weights.
        twins: what it is set beside.
        sample: the text, all of it.
        device: where ONNX Runtime runs: ``auto``, ``cpu`` or ``cuda[:i]``.
        progress: watches.

    Raises:
        EnvironmentProblem: ONNX Runtime can't run there.
        GateMissed: the graph's logits are no numbers.
        IntegrityError: torch's are none either.
        UsageError: the context has no room for a prompt and an answer.
    """
    ids = sample.ids
    if len(ids) < 2:
        raise UsageError("MODEL has a context of 1 token, in which nothing follows a prompt")
    ran = run_graph(folder, precision, twins.in_float32, ids, device, progress)
    graph, kept = ran.logits, ran.prefill
    same = twins.torch_logits(ids, len(graph), True)
    if not same.isfinite().all():
        raise IntegrityError(
            "torch's own logits are NaN or infinite: the weights of MODEL are damaged"
        )
    rounding = None
    if precision.quantized:
        rounding = _rounding(twins.torch_logits(ids, len(graph), False), graph)
    scale = float(same.std()) or 1.0  # a head of zeros
    return Parity(
        prefill=_difference(same[:kept], graph[:kept], scale),
        decode=_difference(same[kept:], graph[kept:], scale),
        tokens=len(ids),
        text=sample.text,
        provider=ran.provider,
        computed_in=ran.computed_in,
        rounding=rounding,
    )


def require_parity(parity: Parity, precision: Precision) -> None:
    """Passes a graph whose logits are those of torch.

    Raises:
        GateMissed: they are not; a difference that is no number is not small.
    """
    limit = QUANTIZED_LIMIT if precision.quantized else LIMITS[parity.computed_in]
    worst = max(parity.prefill.largest, parity.decode.largest)
    if not all(part.largest <= limit for part in (parity.prefill, parity.decode)):
        raise GateMissed(
            f"the graph is another function: its logits differ from torch's by up to {worst:.3g} "
            f"standard deviations (prefill {parity.prefill.largest:.3g}, decode "
            f"{parity.decode.largest:.3g}), where {limit:g} is rounding at {precision.name} in "
            f"{parity.computed_in}: nothing is written; {way_out(precision)}",
            measured=worst,
            limit=limit,
        )


def _difference(expected: Tensor, found: Tensor, scale: float) -> Difference:
    apart = (found - expected).abs() / scale
    same = (found.argmax(-1) == expected.argmax(-1)).float().mean()
    return Difference(float(apart.max()), float(apart.mean()), float(same), len(found))


def _rounding(whole: Tensor, graph: Tensor) -> Rounding:
    expected, found = whole.log_softmax(-1), graph.log_softmax(-1)
    kl = (expected.exp() * (expected - found)).sum(-1).mean()
    same = (whole.argmax(-1) == graph.argmax(-1)).float().mean()
    return Rounding(float(kl), float(same), len(graph))
