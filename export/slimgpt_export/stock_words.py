"""What is said of a stock layout: in the error that asks for padding, and on the card."""

from __future__ import annotations

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import UsageError
from slimgpt.shape import LayerShape
from slimgpt_export.layout import Layout
from slimgpt_export.parity import EXACT, Parity


def card_section(layout: Layout, parity: Parity) -> str:
    """What the card adds on the layout: without it, a padded model's counts would mislead."""
    before, after = layout.source, layout.shape
    text = f"Written by `slimgpt export stock` for any tool that loads {layout.architecture}."
    if layout.padded:
        text += (
            f" Its layers were filled up with zeros to the same widths: it is the function of a "
            f"model of {before.parameters:,} parameters, {before.decoder_parameters:,} of them in "
            f"decoder layers, and costs the memory of {after.parameters:,}."
        )
    text += (
        f" Its logits are that model's within {EXACT:g} standard deviations, at {parity.tokens} "
        "positions in float32."
    )
    return f"\n## Stock layout\n\n{text}\n"


def needs_padding(meta: ConfigOnly, layout: Layout) -> UsageError:
    """The error for layers that no stock class holds as they are, with both ways out."""
    before, after = layout.source, layout.shape
    width = meta.bytes_per_value
    more = after.decoder_parameters / before.decoder_parameters - 1
    return UsageError(
        f"{meta.directory} has {_widths(before.layers)}, which {layout.architecture} can't hold: "
        f"give --pad to fill up with zeros (decoder parameters {before.decoder_parameters:,} -> "
        f"{after.decoder_parameters:,}, {more:+.1%}; KV cache {before.kv_bytes_per_token(width):,} "
        f"-> {after.kv_bytes_per_token(width):,} bytes a token), or serve it as it is with "
        "slimgpt's vLLM plugin, or prune again with slimgpt prune --uniform"
    )


def _widths(layers: tuple[LayerShape, ...]) -> str:
    """The widths that differ between layers; where none does, the head count is the trouble."""
    found = []
    for name, what in (
        ("query_heads", "query heads"),
        ("kv_heads", "KV heads"),
        ("ffn", "FFN neurons"),
    ):
        widths = {getattr(layer, name) for layer in layers}
        if len(widths) > 1:
            found.append(f"{min(widths)} to {max(widths)} {what}")
    if found:
        return f"layers of {', '.join(found)}"
    return f"{layers[0].query_heads} query heads in every layer"
