"""Is the graph the same function: its logits against torch's, on real text, prefill and decode.

torch computes with the numbers that the graph has, so that the difference is the graph's alone;
what rounding has changed is told beside it, against the weights of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import EnvironmentProblem, GateMissed
from slimgpt.progress import Progress, stage
from slimgpt_export.onnx.precision import Precision
from slimgpt_export.onnx.rope import context_length, length_switch
from slimgpt_export.onnx.sample import Sample
from slimgpt_serve.onnx_runtime.artefact import read_artefact
from slimgpt_serve.onnx_runtime.generator import runner_of
from slimgpt_serve.onnx_runtime.session import OnnxSession, open_session
from slimgpt_serve.onnx_runtime.whole_texts import logits_of_texts

STEPS = 16
"""Decode steps compared."""
_PROMPT, _COMPARED = 96, 64
_LONGEST_WINDOW = 2**15
"""Attention costs the square of the tokens: no model in use has a longer window that counts."""

LIMITS = {"fp32": 1e-3, "bf16": 1e-3, "fp16": 0.1, "int8": 0.5, "int4": 0.5}
"""Largest difference allowed, in standard deviations of the logits, by precision.

Found on tiny models and the embedded one: float32 up to 6e-6, float16 up to 5e-3. Quantised, 1e-5
where the kernels round activations to int8 as torch does here, and 0.08 where they do not. A graph
with one head in another's place is apart by 2 and more. bfloat16 has no kernels on CPUs, where its
weights are checked in a float32 graph.
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
        rounding: what the weights' precision costs; None where they are as stored.
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
    """Prompt and decode steps: beyond a sliding window, as far as the context allows.

    Before its end, all windows look the same. longrope has other angles from some length on, and
    takes old keys as they are: the text stays on one side of it.
    """
    context = context_length(meta)
    windows = (meta.family.sliding_window(meta.config, i) for i in range(len(meta.shape.layers)))
    counting = [w for w in windows if w and w < context and w <= _LONGEST_WINDOW]
    wanted = min(max(_PROMPT, *(w + _COMPARED for w in counting), 0) + STEPS, context)
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
        IntegrityError: the logits are no numbers.
    """
    ids = sample.ids
    prompt = len(ids) - min(STEPS, len(ids) - 1)
    kept = min(_COMPARED, prompt)
    with (
        _session(folder, precision, twins, device) as session,
        stage(progress, "running the graph", 1 + len(ids) - prompt),
    ):
        provider, computed_in = session.provider, session.artefact.dtype
        graph = _graph_logits(session, ids, prompt, kept, progress)
    same = twins.torch_logits(ids, len(graph), True)
    rounding = None
    if precision.quantized:
        rounding = _rounding(twins.torch_logits(ids, len(graph), False), graph)
    scale = float(same.std())
    return Parity(
        prefill=_difference(same[:kept], graph[:kept], scale),
        decode=_difference(same[kept:], graph[kept:], scale),
        tokens=len(ids),
        text=sample.text,
        provider=provider,
        computed_in=computed_in,
        rounding=rounding,
    )


def require_parity(parity: Parity, precision: Precision) -> None:
    """Passes a graph whose logits are those of torch.

    Raises:
        GateMissed: they are not; a difference that is no number is none that is small.
    """
    limit = LIMITS[precision.name]
    worst = max(parity.prefill.largest, parity.decode.largest)
    finite = parity.prefill.largest == parity.prefill.largest  # NaN is not equal to itself
    if not (worst <= limit and finite):
        raise GateMissed(
            f"the graph is another function: its logits differ from torch's by up to {worst:.3g} "
            f"standard deviations (prefill {parity.prefill.largest:.3g}, decode "
            f"{parity.decode.largest:.3g}), where {limit:g} is rounding at {precision.name}: "
            "nothing is written; please report this with the config.json of MODEL",
            measured=worst,
            limit=limit,
        )


@contextmanager
def _session(
    folder: Path, precision: Precision, twins: Twins, device: str
) -> Iterator[OnnxSession]:
    """The graph as it will run; on CPUs, a bfloat16 graph's weights in one of float32."""
    try:
        session = open_session(read_artefact(folder), device=_device(precision, device))
    except EnvironmentProblem:
        if precision.activations != "bfloat16" or device not in ("auto", "cpu"):
            raise
        with TemporaryDirectory(dir=folder.parent, prefix="float32-") as name:
            twins.in_float32(Path(name))
            yield open_session(read_artefact(Path(name)), device="cpu")
    else:
        yield session


def _device(precision: Precision, device: str) -> str:
    """ONNX Runtime's attention computes in float32 on CPUs alone."""
    return "cpu" if device == "auto" and precision.activations == "float32" else device


def _graph_logits(
    session: OnnxSession, ids: Tensor, prompt: int, kept: int, progress: Progress
) -> Float[Tensor, "positions vocab"]:
    """At the last positions of the prompt, and behind each further token."""
    text = ids.numpy()
    found = [logits_of_texts(session, text[None, :prompt], kept)[0]]
    progress.advance()
    runner = runner_of(session, len(text), 1)
    runner.prefill(0, text[:prompt].tolist())
    for place in range(prompt, len(text)):
        found.append(runner.decode([int(text[place])], [place]))
        progress.advance()
    return torch.from_numpy(np.concatenate(found))


def _difference(expected: Tensor, found: Tensor, scale: float) -> Difference:
    apart = (found - expected).abs() / scale
    same = (found.argmax(-1) == expected.argmax(-1)).float().mean()
    return Difference(float(apart.max()), float(apart.mean()), float(same), len(found))


def _rounding(whole: Tensor, graph: Tensor) -> Rounding:
    expected, found = whole.log_softmax(-1), graph.log_softmax(-1)
    kl = (expected.exp() * (expected - found)).sum(-1).mean()
    same = (whole.argmax(-1) == graph.argmax(-1)).float().mean()
    return Rounding(float(kl), float(same), len(graph))
