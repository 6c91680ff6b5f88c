"""Draw the demo's calibration and evaluation windows from the embedded model.

    python -m slimgpt.demo.make_samples            # write both files
    python -m slimgpt.demo.make_samples --check    # exit 1 if they are not what is drawn

Token ids are stored because perplexity on a model's own samples is exp(entropy + KL) only when
the tokens scored are the tokens drawn; encoding the decoded text may merge them otherwise.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from slimgpt.demo import CALIBRATION, EVALUATION, MODEL
from slimgpt.sampling import draw_miss, sample_windows, uniform_draws

CALIBRATION_SEED: Final = 2412
EVALUATION_SEED: Final = 18110

ROUNDING: Final = 1e-5
"""Probability by which a draw may miss its token in ``--check``.

On the evaluation file, cumulative probabilities of float32 and float64 differ by up to 1.6e-6.
"""


@dataclass(frozen=True)
class SampleSet:
    """One file of the demo: ``samples`` windows of ``length`` tokens, drawn with ``seed``."""

    path: Path
    samples: int
    length: int
    seed: int


SETS: Final = (
    SampleSet(CALIBRATION, samples=128, length=256, seed=CALIBRATION_SEED),
    SampleSet(EVALUATION, samples=128, length=128, seed=EVALUATION_SEED),
)


def load() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The embedded model (float32, CPU, eval mode) and its tokenizer."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(MODEL)
    return model.eval(), tokenizer


def encode_row(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The JSON line, without its end, of one window."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return json.dumps({"input_ids": ids, "text": text}, ensure_ascii=False, separators=(",", ":"))


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sample_set: SampleSet
) -> None:
    """Draw a set's windows and write its file."""
    windows = sample_windows(
        model,
        samples=sample_set.samples,
        length=sample_set.length,
        bos_token_id=tokenizer.bos_token_id,
        seed=sample_set.seed,
    )
    lines = [encode_row(tokenizer, ids) + "\n" for ids in windows.tolist()]
    sample_set.path.write_bytes("".join(lines).encode())


def find_fault(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sample_set: SampleSet
) -> str | None:
    """What in a set's file is not as ``write`` would have it, or None.

    Every token is drawn again from the stored ones before it and compared up to ``ROUNDING``.
    Comparing whole files would fail wherever one logit rounds otherwise: with one thread in
    place of two, one row of 256 differs.
    """
    if not sample_set.path.exists():
        return "is missing"
    with sample_set.path.open(encoding="utf-8", newline="\n") as file:
        lines = list(file)
    rows = [json.loads(line)["input_ids"] for line in lines]
    if [len(ids) for ids in rows] != [sample_set.length] * sample_set.samples:
        return f"is not {sample_set.samples} rows of {sample_set.length} tokens"
    if lines != [encode_row(tokenizer, ids) + "\n" for ids in rows]:
        return "holds a row whose text is not that of its tokens"
    if any(ids[0] != tokenizer.bos_token_id for ids in rows):
        return "holds a row that does not begin with BOS"
    missed = _count_missed(model, torch.tensor(rows), sample_set.seed)
    return f"holds {missed} tokens other than those drawn" if missed else None


@torch.no_grad()
def _count_missed(
    model: PreTrainedModel, windows: Int64[Tensor, "samples length"], seed: int
) -> int:
    """Tokens after the first that are not the ones drawn with ``seed``, up to ``ROUNDING``."""
    draws = uniform_draws(windows.shape[0], windows.shape[1], seed)
    misses = [
        draw_miss(model(ids).logits[:, :-1], ids[:, 1:], row_draws[:, 1:])
        for ids, row_draws in zip(windows.split(8), draws.split(8), strict=True)
    ]
    return int((torch.cat(misses) > ROUNDING).sum())


@click.command(help=__doc__.split("\n", maxsplit=1)[0])
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a file is not as drawn.")
def main(check: bool) -> None:
    """Write or check both files."""
    model, tokenizer = load()
    faults = 0
    for sample_set in SETS:
        if not check:
            write(model, tokenizer, sample_set)
        fault = find_fault(model, tokenizer, sample_set)
        faults += fault is not None
        click.echo(f"{sample_set.path.name} {fault or 'is as drawn'}")
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
