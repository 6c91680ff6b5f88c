"""The model card (README.md) of a pruned checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slimgpt.planning import Plan

_LICENCE_KEYS = ("license", "license_name", "license_link")


def model_card(
    source: Path, source_name: str, plan: Plan, recipe: dict[str, Any], *, stock: bool
) -> str:
    """Markdown with the hub's metadata: what this is, what was removed, how it loads.

    Args:
        source: the dense checkpoint, whose card names the licence.
        source_name: as it should appear under ``base_model``.
        plan: shapes before and after.
        recipe: the ``recipe`` entry of the manifest.
        stock: whether config.json is one that any tool loads.
    """
    before, after = plan.source, plan.target
    rows = "\n".join(
        f"| {i} | {a.query_heads} of {b.query_heads} | {a.kv_heads} of {b.kv_heads} "
        f"| {a.ffn} of {b.ffn} |"
        for i, (a, b) in enumerate(zip(after.layers, before.layers, strict=True))
    )
    how = (
        "All layers have the same widths: any tool loads it."
        if stock
        else "No stock class has these widths: `import slimgpt` (pip install slimgpt) before "
        "`AutoModelForCausalLM.from_pretrained`; no remote code is needed."
    )
    return f"""---
{_front_matter(source, source_name)}---
# {source_name}, pruned by {plan.achieved:.1%}

Made with SlimGPT (structured pruning by the Optimal Brain Surgeon, arXiv 2412.18110, method
`{recipe["method"]}`) from `{source_name}`: {before.parameters:,} parameters became
{after.parameters:,}; of the decoder's {before.decoder_parameters:,},
{after.decoder_parameters:,} remain. It has not been fine-tuned since. {how}

| layer | query heads | KV heads | FFN neurons |
|---|---|---|---|
{rows}

`slimgpt.json` has the recipe, the digest of the source and a SHA-256 of every file.
"""


def _front_matter(source: Path, source_name: str) -> str:
    licence = _licence_lines(source / "README.md")
    return (
        f"base_model: {json.dumps(source_name)}\nbase_model_relation: finetune\n{licence}"
        "library_name: transformers\npipeline_tag: text-generation\ntags:\n- slimgpt\n- pruned\n"
    )


def _licence_lines(card: Path) -> str:
    """The licence entries of the source card's front matter, as they stand there."""
    if not card.exists():
        return ""
    head, _, _ = card.read_text("utf-8", errors="replace").removeprefix("---\n").partition("\n---")
    lines = [x for x in head.splitlines() if x.split(":")[0] in _LICENCE_KEYS]
    return "".join(line + "\n" for line in lines)
