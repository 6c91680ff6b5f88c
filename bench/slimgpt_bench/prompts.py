"""Prompts of equal length: windows of a text, or texts that a model draws from itself."""

from __future__ import annotations

import json
import random
from pathlib import Path

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import UsageError
from slimgpt.text import read_documents
from slimgpt.tokenizer import beginning, encode, load_tokenizer, require_in_vocabulary


def text_prompts(meta: ConfigOnly, path: Path, count: int, length: int) -> list[list[int]]:
    """Disjoint windows of a text, evenly from all of it.

    Documents are joined by blank lines, and every window begins with the beginning-of-sequence
    token where the tokenizer puts one. Rows of token ids are taken as they are, cut to the length.

    Args:
        meta: the model whose tokenizer is used.
        path: text, JSON or JSON lines.
        count: prompts.
        length: tokens of each.

    Raises:
        UsageError: the text is too short.
        IntegrityError: a token id that the model does not have.
    """
    documents = read_documents(path, "--text")
    rows = [list(x.ids) for x in documents if x.ids is not None]
    if rows and len(rows) < len(documents):
        raise UsageError(f"--text {path} mixes rows of text with rows of token ids: give one kind")
    start: list[int] = []
    if not rows:
        tokenizer = load_tokenizer(meta.directory)
        start = beginning(tokenizer)
        rows = [encode(tokenizer, "\n\n".join(x.text for x in documents))]
    for row in rows:
        require_in_vocabulary(row, meta.shape.vocab_size, f"--text {path}")
    windows = _windows(rows, start, length)
    if len(windows) < count:
        raise UsageError(
            f"--text {path} has {len(windows)} windows of --prompt-tokens {length}, fewer than "
            f"--prompts {count}: give more text, or less of one of these"
        )
    return [windows[i * len(windows) // count] for i in range(count)]


def _windows(rows: list[list[int]], start: list[int], length: int) -> list[list[int]]:
    step = length - len(start)
    if step < 1:
        return []
    return [start + row[i : i + step] for row in rows for i in range(0, len(row) - step + 1, step)]


def own_beginnings(meta: ConfigOnly, count: int, seed: int) -> list[list[int]]:
    """What a model's own texts begin with: its beginning-of-sequence token, else a random one."""
    bos = _bos(meta)
    if bos is not None:
        return [[bos]] * count
    draw = random.Random(seed)  # noqa: S311, RUF100 - nothing secret
    return [[draw.randrange(meta.shape.vocab_size)] for _ in range(count)]


def _bos(meta: ConfigOnly) -> int | None:
    path = meta.directory / "generation_config.json"
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    found = settings.get("bos_token_id", meta.config.get("bos_token_id"))
    return found if isinstance(found, int) and 0 <= found < meta.shape.vocab_size else None
