"""Text to score, cut into disjoint windows; the protocol is part of every number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import UsageError
from slimgpt.text import read_documents
from slimgpt.tokenizer import encode, load_tokenizer, require_in_vocabulary

Protocol = Literal["raw", "paper"]
PAPER_WINDOW = 128


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """Windows to score.

    Attributes:
        windows: (n, window), int64; every token but a window's first is scored.
        name: of the file.
        protocol: how the windows were made, in words.
    """

    windows: Tensor
    name: str
    protocol: str

    @property
    def scored_tokens(self) -> int:
        return self.windows.shape[0] * (self.windows.shape[1] - 1)


def load_text(
    meta: ConfigOnly, path: Path, window: int, protocol: Protocol = "raw"
) -> EvaluationText:
    """Tokenises a file once and cuts it into disjoint windows, dropping what is left over.

    Args:
        meta: the model whose tokenizer is used.
        path: text, JSON or JSON lines; documents are joined by a blank line. Rows of token ids
            are cut one by one.
        window: tokens in a window.
        protocol: ``raw`` takes a plain file as it is; ``paper`` joins its lines by blank lines
            and puts one beginning-of-sequence token in front (where the tokenizer does), as
            LLM-Pruner's and SlimGPT's WikiText-2 perplexity does.

    Raises:
        UsageError: the text is shorter than one window, or the window beyond the context.
        IntegrityError: a token id that the model does not have.
    """
    if window < 2:
        raise UsageError(f"--window {window}: give at least 2 tokens")
    if meta.context_length and window > meta.context_length:
        raise UsageError(
            f"--window {window} is beyond the model's context of {meta.context_length} tokens"
        )
    documents = read_documents(path, "--text")
    rows = [list(d.ids) for d in documents if d.ids is not None]
    if rows and len(rows) < len(documents):
        raise UsageError(f"--text {path} mixes rows of text with rows of token ids: give one kind")
    if rows:
        streams, how = rows, "rows of token ids"
    else:
        text, how = _join([d.text for d in documents], protocol)
        tokenizer = load_tokenizer(meta.directory)
        beginning = _beginning(tokenizer, protocol)
        how += ", one BOS in front" if beginning else ""
        streams = [beginning + encode(tokenizer, text)]
    for stream in streams:
        require_in_vocabulary(stream, meta.shape.vocab_size, f"--text {path}")
    windows = [s[i : i + window] for s in streams for i in range(0, len(s) - window + 1, window)]
    if not windows:
        longest = max(len(s) for s in streams)
        raise UsageError(f"--text {path} has {longest} tokens, fewer than one --window of {window}")
    return EvaluationText(torch.tensor(windows), path.name, f"{how}, disjoint windows of {window}")


def _join(documents: list[str], protocol: Protocol) -> tuple[str, str]:
    if protocol == "raw":
        how = "text as it is" if len(documents) == 1 else "documents joined by blank lines"
        return "\n\n".join(documents), how
    # Rows of the hub's WikiText keep their line end, and blank rows are empty.
    rows = [line + "\n" if line.strip() else "" for d in documents for line in d.split("\n")]
    return "\n\n".join(rows), "lines joined by blank lines"


def _beginning(tokenizer: Any, protocol: Protocol) -> list[int]:
    if protocol == "raw":
        return []
    return [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id][:1]
