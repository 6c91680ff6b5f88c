"""The model card of an ONNX export: what it is, how it was made, how to run it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.release.card.markdown import inline, table
from slimgpt.release.card.metadata import front_matter
from slimgpt.release.card.source_card import read_source_card

_WORDS = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "8-bit weights",
    "int4": "4-bit weights",
}


def render_card(manifest: Mapping[str, Any], model: Path) -> str:
    """Markdown with the hub's metadata.

    Args:
        manifest: all but its ``files``.
        model: directory whose card names licence and language.
    """
    made = manifest["recipe"]["export"]
    name = inline(manifest["source"]["name"])
    return "\n".join(
        (
            f"---\n{front_matter(manifest, read_source_card(model))}---\n",
            f"# {name} for ONNX Runtime, {_WORDS[made['precision']]}\n",
            _what(made),
            f"## How it was made\n\n{table(('', ''), _rows(made, manifest['quality']['export']))}",
            _checked(manifest["quality"]["export"], made),
            _how_to_run(made),
        )
    )


def _what(made: Mapping[str, Any]) -> str:
    if made.get("portable"):
        return "Standard operators of opset 23 alone: any runtime that knows them runs it.\n"
    return (
        "One graph for prefill and decode, each layer at its own widths, with ONNX Runtime's "
        "attention operator (com.microsoft.GroupQueryAttention).\n"
    )


def _rows(made: Mapping[str, Any], measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("precision", str(made["precision"])), ("activations", str(made["activations"]))]
    if "block_size" in made:
        rows.append(("values that share a scale", str(made["block_size"])))
        rows.append(("zero points", "none" if made["symmetric"] else "one a block"))
        higher = measured.get("higher") or {}
        said = ", ".join(f"{part}: {_bits(bits)}" for part, bits in higher.items())
        rows.append(("at higher precision", said or "nothing"))
    return rows


def _bits(bits: int | None) -> str:
    return "whole" if bits is None else f"{bits} bits"


def _checked(measured: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    parity = measured["parity"]
    weights = "the same rounded weights" if parity["rounding"] else "the same weights"
    rows = [
        (what, f"{entry['largest']:.2g}", f"{entry['mean']:.2g}", f"{entry['agreement']:.1%}")
        for what, entry in (("prefill", parity["prefill"]), ("decode", parity["decode"]))
    ]
    text = (
        f"## How it was checked\n\nAgainst torch with {weights}, on {inline(parity['text'])}, in "
        "standard deviations of the logits:\n\n"
        f"{table(('', 'largest difference', 'mean', 'same likeliest token'), rows)}"
    )
    if rounding := parity["rounding"]:
        text += (
            f"\nAgainst the weights before rounding: KL {rounding['kl']:.3g} nats a token, the "
            f"same likeliest token at {rounding['agreement']:.1%} of {rounding['positions']} "
            "positions.\n"
        )
    if made["precision"] == "bf16" and parity["computed_in"] != "bfloat16":
        text += (
            "\nThe check computed in float32 with these bfloat16 weights, because ONNX Runtime has "
            "no bfloat16 kernels for CPUs.\n"
        )
    return text


def _how_to_run(made: Mapping[str, Any]) -> str:
    run = '```\npip install "slimgpt[onnx]"    # on GPUs: slimgpt[onnx-gpu]\n'
    run += 'slimgpt generate DIR "Once upon a time"\n'
    if made.get("portable"):
        return f"## How to run it\n\n{run}```\n"
    return (
        f"## How to run it\n\n{run}slimgpt serve DIR --engine onnx\n```\n\nONNX Runtime GenAI 0.15 "
        "and later runs the folder as it is.\n"
    )
