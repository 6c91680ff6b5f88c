"""Real text, as the model's own tokenizer has it, for what an export is measured on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from slimgpt.errors import UsageError
from slimgpt.text import Document, read_documents
from slimgpt.tokenizer import encode, has_tokenizer, load_tokenizer, require_in_vocabulary

_OWN = "evaluation.jsonl"


@dataclass(frozen=True, slots=True)
class Sample:
    """A stream of tokens.

    Attributes:
        ids: of the text.
        text: what it is called.
    """

    ids: Int[Tensor, " tokens"]
    text: str


def read_sample(
    directory: Path, vocabulary: int, text: Path | None, seed: int, least: int
) -> Sample:
    """The tokens of a text; of a sample that comes with slimgpt where none is given.

    Args:
        directory: of the model, whose tokenizer reads it; one without gets random tokens.
        vocabulary: of the model.
        text: a .txt, .jsonl or .json file.
        seed: of random tokens.
        least: tokens that are needed; a shorter sample of ours is repeated.

    Raises:
        UsageError: the text is too short, or the model has no tokenizer to read it with.
        SlimGPTError: as reading text raises it.
    """
    if not has_tokenizer(directory):
        if text:
            raise UsageError(f"--text {text}: {directory} has no tokenizer to read it with")
        generator = torch.Generator().manual_seed(seed)
        return Sample(torch.randint(vocabulary, (least,), generator=generator), "random tokens")
    tokenizer = load_tokenizer(directory)
    ids: list[int] = []
    for document in read_documents(text, "--text") if text else _own():
        ids += encode(tokenizer, document.text) if document.ids is None else document.ids
    name = f"--text {text}" if text else "the text that comes with slimgpt"
    require_in_vocabulary(ids, vocabulary, name)
    if not ids:
        raise UsageError(f"the tokenizer of {directory} finds no tokens in {name}: repair it")
    if text and len(ids) < least:
        raise UsageError(f"{name} has {len(ids)} tokens: {least} are needed")
    while len(ids) < least:
        ids += ids
    return Sample(torch.tensor(ids), text.name if text else name)


def _own() -> list[Document]:
    """As text: the ids beside it are of another tokenizer."""
    lines = (files("slimgpt.demo") / _OWN).read_text("utf-8").splitlines()
    return [Document(str(json.loads(line)["text"])) for line in lines]
