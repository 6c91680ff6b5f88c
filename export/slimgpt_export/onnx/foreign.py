"""A portable export of an architecture that only transformers knows: no widths, so no manifest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import slimgpt
from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import SOURCE_CARD
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.checkpoint.writer import publish, write_text_durably
from slimgpt.errors import UsageError
from slimgpt.progress import Progress, stage
from slimgpt.release.manifest import environment, rounded
from slimgpt.resources import peak_rss_bytes
from slimgpt.workspace import Workspace
from slimgpt_export.onnx.options import OnnxOptions, require_device
from slimgpt_export.onnx.parity import Parity, Twins, measure, require_parity, usual_tokens
from slimgpt_export.onnx.portable import require_exporter, require_whole, write_portable
from slimgpt_export.onnx.portable_model import load_for_export
from slimgpt_export.onnx.result import OnnxResult
from slimgpt_export.onnx.sample import Sample, read_sample

_WEIGHTS = (
    *(".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack"),
    *(".onnx", ".onnx_data", ".onnx.data", ".ot", ".tflite", ".mlmodel", ".npz"),
)
"""How names of weights end: those of other tools too, which are no smaller."""
_CARD = "README.md"


def require_portable(model: Path, options: OnnxOptions) -> None:
    """Refuses an architecture that the graph builder does not know, and names the way out.

    Raises:
        UsageError: the portable route was not asked for, or does not go with the other options.
        EnvironmentProblem: the package that it needs is missing.
    """
    if not options.portable:
        named = read_json(inside(model, model / "config.json")).get("model_type")
        raise UsageError(
            f"{model} is a {named} model, which the graph builder does not know: give --portable, "
            "which exports what transformers computes"
        )
    require_device(options)
    require_exporter()
    require_whole(options.precision)


def export_foreign(
    model: Path, out: Path, options: OnnxOptions, progress: Progress, started: float
) -> OnnxResult:
    """Writes a portable export and publishes it if its logits are transformers'.

    Args:
        model: a checkpoint of a causal LM that transformers has a class for.
        out: does not exist; appears complete or not at all.
        options: how.
        progress: watches.
        started: as time.monotonic had it.

    Raises:
        GateMissed: the graph is another function; nothing is published.
        SlimGPTError: every other expected failure.
    """
    require_portable(model, options)
    fingerprint = {"model": str(model), "environment": environment("cpu")}
    work = Workspace(out)
    with closing(work):
        work.claim(fingerprint, fresh=True)
        try:
            parity = _make(model, out, work.staging(), options, progress)
        finally:
            work.remove()
    return OnnxResult(
        out=out,
        precision=options.precision,
        geometry=None,
        weight_bytes=sum(p.stat().st_size for p in out.glob("model.onnx.data*")),
        measured=rounded({"parity": parity.to_json()}),
        seconds=time.monotonic() - started,
        peak_rss_bytes=peak_rss_bytes(),
    )


def _make(
    model: Path, out: Path, staging: Path, options: OnnxOptions, progress: Progress
) -> Parity:
    precision = options.precision
    for path in _sidecars(model):
        target = staging / (SOURCE_CARD if path.name == _CARD else path.relative_to(model))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(inside(model, path).read_bytes())
    metadata = {"slimgpt.source": _digest(model)}
    with stage(progress, "writing graph", 1):
        portable = write_portable(model, precision, staging, metadata=metadata)
        progress.advance()
    tokens = usual_tokens(portable.context_length)
    sample = read_sample(model, portable.vocab_size, options.text, options.seed, tokens)
    twins = Twins(
        lambda ids, kept, _: _logits(model, options, ids, kept),
        lambda folder: _in_float32(model, options, folder, metadata),
    )
    text = Sample(sample.ids[:tokens], sample.text)
    parity = measure(staging, precision, twins, text, options.device, progress)
    require_parity(parity, precision)
    write_text_durably(staging / _CARD, _card(model.resolve().name, portable.architecture, parity))
    publish(staging, out)
    return parity


def _in_float32(model: Path, options: OnnxOptions, folder: Path, metadata: dict[str, str]) -> None:
    write_portable(model, options.precision, folder, dtype=torch.float32, metadata=metadata)


def _logits(model: Path, options: OnnxOptions, ids: Tensor, kept: int) -> Tensor:
    """As transformers computes them in float32, with the weights as they are rounded."""
    loaded: Any = load_for_export(model, getattr(torch, options.precision.activations))[0].float()
    with torch.no_grad():
        logits: Tensor = loaded(ids[None], use_cache=False).logits[0, -kept:]
    return logits.float()


def _sidecars(model: Path) -> Iterator[Path]:
    for path in sorted(model.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(model).parts)
        if path.is_file() and not hidden and not path.name.endswith(_WEIGHTS):
            yield path


def _digest(model: Path) -> str:
    """Of the weights' digests, file by file."""
    import hashlib

    found = [file_sha256(inside(model, p)) for p in sorted(model.glob("*.safetensors"))]
    return hashlib.sha256("".join(found).encode()).hexdigest()


def _card(name: str, architecture: str, parity: Parity) -> str:
    return (
        f"# {name} as a portable ONNX graph\n\nWritten by slimgpt {slimgpt.__version__} through "
        f"torch's exporter from a {architecture}: standard operators of opset 23 alone. Its "
        f"logits are transformers' within {parity.decode.largest:.2g} standard deviations while "
        f"decoding, {parity.prefill.largest:.2g} in a prompt.\n"
    )
