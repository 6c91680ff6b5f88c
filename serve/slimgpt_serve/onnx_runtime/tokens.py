"""Text to token ids and back without torch.

transformers' tokenizers import torch, which takes seconds and hundreds of megabytes. What they
compute is in tokenizer.json, which the Rust package behind them reads by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.errors import IntegrityError, UsageError
from slimgpt.tokenizer import load_tokenizer as load_with_transformers
from slimgpt.tokenizer import well_formed

_FILE, _CONFIG, _TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


UNFINISHED = "\ufffd"
"""What decoders write for bytes that are no character, or not yet."""


class Decoder(Protocol):
    """What turns ids into text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens left out."""


class Tokenizer:
    """The tokenizer of an export, and its chat template."""

    def __init__(self, backend: Any, template: str | None, names: Mapping[str, str]) -> None:
        """Wraps a ``tokenizers.Tokenizer``.

        Args:
            backend: that encodes and decodes.
            template: Jinja source of the chat template.
            names: special tokens by the names that templates use, like ``bos_token``.
        """
        self._backend, self._template, self._names = backend, template, dict(names)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text; ``special`` adds what the tokenizer puts around one, like ``<s>``."""
        ids: list[int] = self._backend.encode(well_formed(text), add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens left out."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def token(self, token: int) -> str:
        """The text of one token within a text, special or not; part of a character is U+FFFD."""
        alone: str = self._backend.decode([token], skip_special_tokens=False)
        # A SentencePiece decoder drops the space in front of the first word it is given.
        twice: str = self._backend.decode([token, token], skip_special_tokens=False)
        whole = twice.startswith(alone) and UNFINISHED not in twice
        return twice[len(alone) :] if whole else alone

    def chat(self, messages: Sequence[Mapping[str, Any]], **values: Any) -> list[int]:
        """Ids of a conversation, up to where the assistant answers.

        Args:
            messages: each with ``role`` and ``content``.
            values: more of the template's variables.

        Raises:
            UsageError: there is no template, or it refuses the messages.
        """
        if self._template is None:
            raise UsageError(
                "the model has no chat template: ask for completions of plain text, or export it "
                f"with {_TEMPLATE} beside its tokenizer"
            )
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered: Any = render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                chat_template=self._template,
                add_generation_prompt=True,
                **{**self._names, **values},
            )
        except Exception as reason:  # noqa: BLE001 - a template may divide by zero
            words = " ".join(str(reason).split())
            raise UsageError(f"the model's chat template refuses the messages: {words}") from None
        return self.encode(rendered[0][0], special=False)  # a template writes special tokens itself


class TransformersDecoder:
    """A tokenizer of transformers as a :class:`Decoder`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of an export.

    Where there is no tokenizer.json, transformers makes one of what there is.

    Raises:
        IntegrityError: there is none, or its files are damaged or lead out of the directory.
    """
    path = directory / _FILE
    if not (path.exists() or path.is_symlink()):
        backend = getattr(load_with_transformers(directory), "_tokenizer", None)
        if backend is None:
            raise IntegrityError(
                f"{directory} has no {_FILE}: save the tokenizer there with save_pretrained"
            )
    else:
        backend = _read(inside(directory, path))
    # Files may ask for padding, or for cutting to a length: a prompt is never changed in silence.
    backend.no_padding()
    backend.no_truncation()
    config = _config(directory)
    return Tokenizer(backend, _template(directory, config), _names(config))


def _read(path: Path) -> Any:
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_file(str(path))
    except Exception as reason:  # noqa: BLE001 - the Rust package raises bare Exception
        raise IntegrityError(f"{path} can't be read as a tokenizer: {reason}") from None


def _config(directory: Path) -> dict[str, Any]:
    path = directory / _CONFIG
    return read_json(inside(directory, path)) if path.exists() or path.is_symlink() else {}


def _names(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name; some files spell each out as an object."""
    found = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _template(directory: Path, config: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, or in tokenizer_config.json, alone or among others."""
    path = directory / _TEMPLATE
    if path.exists() or path.is_symlink():
        try:
            return inside(directory, path).read_text("utf-8")
        except (OSError, ValueError) as reason:
            raise IntegrityError(f"{path} can't be read: {reason}") from None
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {x.get("name"): x.get("template") for x in found if isinstance(x, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None
