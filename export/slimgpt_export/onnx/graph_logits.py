"""Running a written graph on a text: the logits of a prompt, and of each token behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slimgpt.errors import EnvironmentProblem, GateMissed
from slimgpt.progress import Progress, stage
from slimgpt_export.onnx.precision import Precision
from slimgpt_serve.onnx_runtime.artefact import read_artefact
from slimgpt_serve.onnx_runtime.generator import runner_of
from slimgpt_serve.onnx_runtime.runner import BadLogits
from slimgpt_serve.onnx_runtime.session import OnnxSession, open_session
from slimgpt_serve.onnx_runtime.whole_texts import logits_of_texts

STEPS = 16
"""Decode steps."""
COMPARED = 64
"""Positions at the end of the prompt."""


@dataclass(frozen=True, slots=True)
class GraphLogits:
    """What a graph gave.

    Attributes:
        logits: of the prompt's last positions, then behind each further token.
        prefill: positions of the prompt among them.
        provider: execution provider of ONNX Runtime.
        computed_in: number format of the graph's activations.
    """

    logits: Float[Tensor, "positions vocab"]
    prefill: int
    provider: str
    computed_in: str


def run_graph(
    folder: Path,
    precision: Precision,
    in_float32: Callable[[Path], None],
    ids: Int[Tensor, " tokens"],
    device: str,
    progress: Progress,
) -> GraphLogits:
    """Runs a graph: all but the last tokens as a prompt, then one by one.

    Args:
        folder: holds the graph.
        precision: of its weights.
        in_float32: writes the graph into a folder once more, to compute in float32.
        ids: two tokens or more.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        progress: watches.

    Raises:
        EnvironmentProblem: ONNX Runtime can't run there.
        GateMissed: the logits are no numbers.
    """
    prompt = len(ids) - min(STEPS, len(ids) - 1)
    kept = min(COMPARED, prompt)
    with (
        _session(folder, precision, in_float32, device) as session,
        stage(progress, "running the graph", 1 + len(ids) - prompt),
    ):
        try:
            logits = _logits(session, ids, prompt, kept, progress)
        except BadLogits:
            raise _no_numbers(precision) from None
        if not logits.isfinite().all():
            raise _no_numbers(precision)
        return GraphLogits(logits, kept, session.provider, session.artefact.dtype)


def way_out(precision: Precision) -> str:
    """What to do about a graph that is not as torch is."""
    if precision.activations == "float16":
        return f"its activations may be beyond what float16 can hold: give {precision.wider}"
    return "please report this with the config.json of MODEL"


def _no_numbers(precision: Precision) -> GateMissed:
    return GateMissed(
        f"--precision {precision.name}: the graph's logits are no numbers (NaN or infinite): "
        f"nothing is written; {way_out(precision)}"
    )


@contextmanager
def _session(
    folder: Path, precision: Precision, in_float32: Callable[[Path], None], device: str
) -> Iterator[OnnxSession]:
    """The graph as it will run; on CPUs, a bfloat16 graph's weights in one of float32.

    Whole weights are not laid out anew for a few steps: then they need no memory that the system
    can't take back, and a model larger than memory can be checked. Quantised ones are a hundred
    times slower without.
    """
    prepack = precision.quantized
    try:
        where = _device(precision, device)
        session = open_session(read_artefact(folder), device=where, prepack=prepack)
    except EnvironmentProblem:
        if precision.activations != "bfloat16" or device not in ("auto", "cpu"):
            raise
        with TemporaryDirectory(dir=folder.parent, prefix="float32-") as name:
            in_float32(Path(name))
            yield open_session(read_artefact(Path(name)), device="cpu", prepack=prepack)
    else:
        yield session


def _device(precision: Precision, device: str) -> str:
    """ONNX Runtime's attention computes in float32 on CPUs alone."""
    return "cpu" if device == "auto" and precision.activations == "float32" else device


def _logits(
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
