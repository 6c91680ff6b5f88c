"""``slimgpt bench quality``: several models beside the dense one, as a saved result."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from slimgpt.commands.console import Console, common, device_options, seed_option
from slimgpt.commands.measuring import save_option
from slimgpt.errors import Unresolved

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("dense")
@click.argument("models", metavar="OUT...", nargs=-1, required=True)
@click.option(
    "--text",
    "texts",
    type=_PATH,
    multiple=True,
    required=True,
    help="What to score: a .txt, .jsonl or .json file; may be given several times.",
)
@click.option(
    "--window", type=int, default=128, show_default=True, help="Tokens in a disjoint window."
)
@click.option(
    "--protocol",
    type=click.Choice(["raw", "paper"]),
    default="raw",
    show_default=True,
    help="As in slimgpt evaluate.",
)
@save_option
@seed_option
@device_options
@common
def quality(
    console: Console,
    dense: str,
    models: tuple[str, ...],
    texts: tuple[Path, ...],
    window: int,
    protocol: Any,
    save: Path | None,
    device: str,
    dtype: str,
    seed: int,
) -> None:
    """Perplexity of every OUT and its KL to DENSE, beside its size.

    All are scored on the same windows, so the numbers can be set against each other; a page of
    slimgpt report draws them over the bytes of the weights. Exit code 3: one is no finite number.
    """
    from slimgpt.checkpoint.locate import locate
    from slimgpt.evaluate.judgement import TextSpec

    results: Any = importlib.import_module("slimgpt_bench.results")
    if save:
        results.require_free(save)
    document = importlib.import_module("slimgpt_bench.quality").bench_quality(
        locate(dense),
        [locate(model) for model in models],
        [TextSpec(path, window, protocol, path.name) for path in texts],
        device=device,
        dtype=dtype,
        seed=seed,
        progress=console,
    )
    console.result(document, _table(document))
    if save:
        results.save(save, document)
    if not document["valid"]:
        raise Unresolved("; ".join(document["problems"]))


def _table(document: dict[str, Any]) -> Table:
    from slimgpt.resources import human_bytes

    how = "; ".join(
        f"{t['text']}, windows of {t['window']}, {t['protocol']}, {t['tokens']:,} tokens"
        for t in document["workload"]["texts"]
    )
    table = Table("model", "text", box=None, pad_edge=False, caption=how, caption_justify="left")
    for name in ("weights", "KV a token", "perplexity", "KL to dense"):
        table.add_column(name, justify="right")
    for place, text in enumerate(document["models"][0]["texts"]):
        perplexity = _shown(text["baseline_perplexity"])
        table.add_row(*_sizes(document["artefact"], text["text"], human_bytes), perplexity, "0")
        for model in document["models"]:
            found = model["texts"][place]
            table.add_row(
                *_sizes(model["artefact"], found["text"], human_bytes),
                _shown(found["perplexity"]),
                "" if found["kl"] is None else f"{max(found['kl'], 0):.4f}",
            )
    return table


def _sizes(artefact: dict[str, Any], text: str, human: Any) -> tuple[str, ...]:
    weights, cached = human(artefact["weight_bytes"]), human(artefact["kv_bytes_per_token"])
    return artefact["name"], text, weights, cached


def _shown(perplexity: float | None) -> str:
    return "beyond 1e304" if perplexity is None else f"{perplexity:.2f}"
