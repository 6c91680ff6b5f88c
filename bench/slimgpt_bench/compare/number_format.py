"""How weights are stored and computed with, beyond the type that stands for them."""

from __future__ import annotations

from slimgpt.checkpoint.quantized import read_quantized
from slimgpt.release.manifest import read_manifest
from slimgpt_bench.artefact import Artefact

QUANTISED = "quantised"
"""Type of a checkpoint whose weights are packed, whatever they are packed to."""
_OF_EXPORTS = {
    "--activations": "activations",
    "--portable": "portable",
    "--block-size": "block_size",
    "--asymmetric": "symmetric",
    "--accuracy-level": "accuracy_level",
    "--keep": "keep",
}
"""Options of ``slimgpt export onnx`` that decide the speed, and their entries of a manifest."""


def number_format(artefact: Artefact) -> dict[str, str]:
    """What two models must share beside ``dtype``, in words, by what it is called.

    The same keys for all artefacts of one form and dtype.

    Raises:
        IntegrityError: config or headers of a quantised checkpoint are damaged.
    """
    if artefact.form == "onnx":
        recipe = (read_manifest(artefact.directory) or {}).get("recipe")
        told = recipe.get("export") if isinstance(recipe, dict) else None
        made = told if isinstance(told, dict) else {}
        return {
            f"{entry} (slimgpt export onnx {flag})": str(made.get(entry))
            for flag, entry in _OF_EXPORTS.items()
        }
    if artefact.dtype != QUANTISED:
        return {}
    packed = read_quantized(artefact.directory)
    return {
        "quantisation": f"{packed.method} {packed.format}",
        "format of the weights": str(packed.weights),
        "format of the activations": str(packed.activations),
    }
