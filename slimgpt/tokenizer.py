"""The tokenizer of a checkpoint, never by running code that the checkpoint brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.errors import IntegrityError

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


def load_tokenizer(directory: Path) -> Any:
    """The transformers tokenizer of a checkpoint directory.

    A tokenizer class of the checkpoint's own (Baichuan) is not run: its SentencePiece model is
    read as Llama's, which is what it is.

    Raises:
        IntegrityError: there is none, its files are damaged, or one is a link out of there.
    """
    if not has_tokenizer(directory):
        raise IntegrityError(
            f"{directory} has no tokenizer ({', '.join(_FILES)}): copy it from the original model"
        )
    for path in directory.iterdir():
        if path.is_symlink():
            inside(directory, path)  # transformers follows every link
    from transformers import AutoTokenizer, LlamaTokenizer

    config = directory / "tokenizer_config.json"
    own_code = config.exists() and "auto_map" in read_json(inside(directory, config))
    loader: Any = LlamaTokenizer if own_code else AutoTokenizer
    try:
        settings = {"add_prefix_space": _adds_dummy_prefix(directory)} if own_code else {}
        return loader.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, **settings
        )
    except Exception as reason:  # noqa: BLE001 - every tokenizer class raises its own kinds
        raise IntegrityError(f"the tokenizer of {directory} can't be loaded: {reason}") from None


def _adds_dummy_prefix(directory: Path) -> bool:
    """Whether a SentencePiece model puts a space in front of every text; Llama's do."""
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(inside(directory, directory / "tokenizer.model").read_bytes())
    return bool(model.normalizer_spec.add_dummy_prefix)


def save_tokenizer(source: Path, directory: Path) -> None:
    """Writes a tokenizer that AutoTokenizer loads the same under any model type.

    AutoTokenizer goes by the model type of config.json, and reads the same files otherwise when a
    conversion has changed it.
    """
    load_tokenizer(source).save_pretrained(directory)


def has_tokenizer(directory: Path) -> bool:
    """Whether any tokenizer file is there."""
    return any((directory / name).exists() for name in _FILES)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids without special tokens; texts longer than the model's context are fine here."""
    ids: list[int] = tokenizer(well_formed(text), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    return ids


def beginning(tokenizer: Any) -> list[int]:
    """The beginning-of-sequence token, where the tokenizer puts one in front of a text."""
    return [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id][:1]


def well_formed(text: str) -> str:
    """The text with lone surrogates, which no tokenizer takes, replaced by question marks.

    JSON can spell them, and they stand for bytes on a command line that are no UTF-8.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def require_in_vocabulary(ids: Sequence[int], vocabulary: int, origin: str) -> None:
    """Refuses ids that the embedding has no row for.

    Raises:
        IntegrityError: naming the largest.
    """
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        wrong = max(ids) if max(ids) >= vocabulary else min(ids)
        raise IntegrityError(
            f"{origin}: token id {wrong} is beyond the model's vocabulary of {vocabulary}: text "
            "and weights need the same tokenizer"
        )
