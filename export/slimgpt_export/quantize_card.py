"""The model card of a quantised checkpoint: what it is, how it was made, what it lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.release.card.markdown import inline, table
from slimgpt.release.card.metadata import data_sources, front_matter
from slimgpt.release.card.source_card import read_source_card
from slimgpt.resources import human_bytes
from slimgpt_export.quantize_schemes import SCHEMES


def render_card(manifest: Mapping[str, Any], model: Path, *, stock: bool) -> str:
    """Markdown with the hub's metadata.

    Args:
        manifest: all but its ``files``.
        model: directory whose card names licence and language.
        stock: whether config.json is one that any tool loads.
    """
    recipe = manifest["recipe"]["quantization"]
    name = inline(manifest["source"]["name"])
    return "\n".join(
        (
            f"---\n{front_matter(manifest, read_source_card(model))}---\n",
            f"# {name}, quantised to {recipe['scheme']}\n",
            f"{SCHEMES[recipe['scheme']].words}, in the compressed-tensors format. Embeddings, "
            "norms, biases and LM head are as they were.\n",
            f"## How it was made\n\n{table(('', ''), _made(recipe))}",
            _lost(manifest["quality"]["quantization"]),
            _how_to_load(stock),
        )
    )


def _made(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("scheme", str(recipe["scheme"]))]
    if recipe.get("group_size"):
        rows.append(("group size", str(recipe["group_size"])))
    if calibration := recipe.get("calibration"):
        size = f"{calibration['samples']} windows of {calibration['sequence_length']} tokens"
        rows.append(("calibrated on", f"{', '.join(data_sources(calibration))}: {size}"))
    rows.append(("checked for", f"{recipe['runs_on']}, {recipe['tensor_parallel']} device(s)"))
    rows.append(("llm-compressor", str(recipe["llmcompressor"])))
    return rows


def _lost(measured: Mapping[str, Any]) -> str:
    size = measured["weight_bytes"]
    rows = [
        ("perplexity", measured["baseline_perplexity"], measured["perplexity"]),
        ("weights", human_bytes(size["before"]), human_bytes(size["after"])),
    ]
    return (
        f"## What it lost\n\n{table(('', 'before', 'quantised'), rows)}\n"
        f"KL(before ‖ quantised) is {measured['kl']} nats a token. Measured on "
        f"{measured['tokens']:,} tokens of {inline(measured['text'])}, {inline(measured['how'])}, "
        "with the weights unpacked and the activations rounded by transformers.\n"
    )


def _how_to_load(stock: bool) -> str:
    if stock:
        how = "All layers have the same widths: vLLM and transformers load it as it is."
    else:
        how = (
            "Widths differ by layer: `pip install slimgpt` registers the model with vLLM, and "
            "`import slimgpt` with transformers; no remote code is needed."
        )
    return f"## How to load it\n\n{how} transformers also needs the package compressed-tensors.\n"
