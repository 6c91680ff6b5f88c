"""``slimgpt evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from slimgpt.commands.console import Console, accepted_everywhere, common, device_options
from slimgpt.errors import UsageError


@click.command()
@click.argument("model")
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    required=True,
    help="What to score: a .txt, .jsonl or .json file.",
)
@click.option("--baseline", help="The dense model, for KL(dense || MODEL) at every token.")
@click.option(
    "--window", type=int, default=128, show_default=True, help="Tokens in a disjoint window."
)
@click.option(
    "--protocol",
    type=click.Choice(["raw", "paper"]),
    default="raw",
    show_default=True,
    help="raw scores the file as it is; paper joins its lines by blank lines and puts one BOS in "
    "front, as the paper does with WikiText-2.",
)
@device_options
@accepted_everywhere("seed")
@common
def evaluate(
    console: Console,
    model: str,
    text: Path,
    baseline: str | None,
    window: int,
    protocol: Any,
    device: str,
    dtype: str,
) -> None:
    """Perplexity of MODEL on a text, and its divergence from the dense model.

    Numbers of different windows are different quantities: the protocol stands beside each.
    """
    from slimgpt.checkpoint.locate import locate
    from slimgpt.checkpoint.reader import read_config
    from slimgpt.evaluate.perplexity import measure, perplexity
    from slimgpt.evaluate.windows import load_text
    from slimgpt.loading import load_model

    directory = locate(model)
    dense = locate(baseline) if baseline else None
    meta = read_config(directory)
    if dense and (other := read_config(dense).shape.vocab_size) != meta.shape.vocab_size:
        raise UsageError(
            f"--baseline {baseline} has a vocabulary of {other}, {model} one of "
            f"{meta.shape.vocab_size}: KL needs the same"
        )
    windows = load_text(meta, text, window, protocol)
    loaded, _ = load_model(directory, device=device, dtype=dtype)
    reference = load_model(dense, device=device, dtype=dtype)[0] if dense else None
    quality = measure(loaded, windows, reference, progress=console)
    document = quality.to_json() | {"dtype": str(loaded.dtype).removeprefix("torch.")}
    table = Table("", "perplexity", "KL to dense", title=f"{text.name}: {windows.protocol}")
    if quality.baseline_nll is not None:
        table.add_row(str(baseline), f"{perplexity(quality.baseline_nll):.2f}", "0")
    divergence = "" if quality.kl is None else f"{quality.kl:.4f} nats/token"
    table.add_row(model, f"{quality.perplexity:.2f}", divergence)
    table.caption = f"{windows.scored_tokens:,} tokens scored, computed in {document['dtype']}"
    console.result(document, table)
