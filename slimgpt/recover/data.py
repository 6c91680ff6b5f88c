"""From documents to training examples: token ids, and which of them the loss is taken on."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slimgpt.calibration import HUB_SETS, hub_documents
from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.errors import UsageError
from slimgpt.recover.options import RecoverOptions
from slimgpt.text import Document, Exchange, read_documents
from slimgpt.tokenizer import beginning, encode, load_tokenizer, require_in_vocabulary, well_formed

_ALPACA_ABOUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request."
)
_SMALLEST_HELD_OUT_SHARE = 10


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence to train on.

    Attributes:
        ids: token ids.
        answer: where the scored tokens begin; at least 1, as nothing predicts the first token.
    """

    ids: array[int]
    answer: int

    @property
    def scored(self) -> int:
        """Tokens that the loss is taken on."""
        return len(self.ids) - self.answer

    @property
    def key(self) -> bytes:
        """The same for equal examples."""
        return array("q", (len(self.ids), self.answer)).tobytes() + self.ids.tobytes()


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Examples to train on and examples to watch.

    Attributes:
        train: in the order of the files.
        held_out: never trained on.
        sources: as named by the user, files without their folders.
        dropped: examples that have no answer, or no room for it behind the prompt, or that are
            held out already.
        sha256: of all examples.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    sources: tuple[str, ...]
    dropped: int
    sha256: str

    def describe(self) -> dict[str, Any]:
        """The ``data`` entry of the recipe; the digest stands for the text itself."""
        return {
            "sources": list(self.sources),
            "examples": len(self.train),
            "held_out": len(self.held_out),
            "dropped": self.dropped,
            "held_out_tokens": sum(e.scored for e in self.held_out),
            "sha256": self.sha256,
        }


def load_training_data(
    meta: ConfigOnly, sources: Sequence[str], options: RecoverOptions
) -> TrainingData:
    """Reads files or hub sets, tokenises them and keeps a part back.

    Rows with an instruction are put into a prompt, and only their answer is scored. Other text is
    cut into disjoint windows, of which every token but the first is scored; so are rows of ids.

    Args:
        meta: the model; its tokenizer makes the tokens.
        sources: paths, or names of hub sets (slimgpt.calibration.HUB_SETS).
        options: ``max_length``, ``held_out``, ``prompt`` and ``seed``.

    Raises:
        UsageError: too little data, or a length beyond the model's context.
        IntegrityError: token ids that the model does not have.
        EnvironmentProblem: a hub set that can't be loaded.
    """
    if meta.context_length and options.max_length > meta.context_length:
        raise UsageError(
            f"--max-length {options.max_length} is beyond the model's context: give at most "
            f"{meta.context_length} tokens"
        )
    documents = [d for source in sources for d in _read(source)]
    made = _ExampleMaker(meta, options).make(documents)
    examples = [e for e in made if e.scored > 0]
    train, held_out = _split(examples, options.held_out, options.seed)
    return TrainingData(
        train=train,
        held_out=held_out,
        sources=tuple(Path(s).name for s in sources),
        dropped=len(made) - len(train) - len(held_out),
        sha256=_digest(examples),
    )


def _split(
    examples: Sequence[Example], held_out: int, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """To train on and to watch, both in their order; what is watched is not trained on as a copy.

    Raises:
        UsageError: nothing is left for one of them.
    """
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    chosen = set(order[: min(held_out, len(examples) // _SMALLEST_HELD_OUT_SHARE)])
    watched = tuple(e for i, e in enumerate(examples) if i in chosen)
    known = {e.key for e in watched}
    train = tuple(e for i, e in enumerate(examples) if i not in chosen and e.key not in known)
    if not (train and watched):
        different = len({e.key for e in examples})
        raise UsageError(
            f"--data has {different} different usable examples, too few to hold any out: give at "
            f"least {_SMALLEST_HELD_OUT_SHARE}, or raise --max-length"
        )
    return train, watched


def alpaca_prompt(exchange: Exchange) -> str:
    """The prompt of Stanford Alpaca, which ends where the answer begins."""
    about = f"### Input:\n{exchange.input}\n\n" if exchange.input else ""
    opening = _ALPACA_ABOUT if exchange.input else _ALPACA
    return f"{opening}\n\n### Instruction:\n{exchange.instruction}\n\n{about}### Response:\n"


def _read(source: str) -> list[Document]:
    if source in HUB_SETS and not Path(source).exists():
        return hub_documents(source, HUB_SETS[source], "--data")
    return read_documents(Path(source), "--data")


def _digest(examples: Sequence[Example]) -> str:
    whole = hashlib.sha256()
    for example in examples:
        whole.update(example.key)
    return whole.hexdigest()


class _ExampleMaker:
    """Tokenises documents for one model."""

    def __init__(self, meta: ConfigOnly, options: RecoverOptions) -> None:
        self._directory, self._vocabulary = meta.directory, meta.shape.vocab_size
        self._prompt, self._max_length = options.prompt, options.max_length

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._directory)  # rows of ids need none

    @cached_property
    def _beginning(self) -> list[int]:
        return beginning(self._tokenizer)

    @cached_property
    def _end(self) -> list[int]:
        end = self._tokenizer.eos_token_id
        return [] if end is None else [end]

    def make(self, documents: Sequence[Document]) -> list[Example]:
        """All examples, also those without a scored token."""
        made: list[Example] = []
        for d in documents:
            if d.exchange is not None:
                made.append(self._answered(d.exchange))
            else:
                made.extend(self._windows(self._plain(d.text) if d.ids is None else d.ids))
        return made

    def _packed(self, ids: Sequence[int]) -> array[int]:
        """Four bytes a token, where a list has 36; refuses what the embedding has no row for."""
        require_in_vocabulary(ids, self._vocabulary, "--data")
        return array("i", ids)

    def _answered(self, exchange: Exchange) -> Example:
        prompt, start = self._prompted(exchange)
        asked = start + encode(self._tokenizer, prompt)
        whole = start + encode(self._tokenizer, prompt + exchange.output)
        # Where the border falls into a token, that token belongs to the answer.
        shared = next(
            (i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b),
            min(len(asked), len(whole)),
        )
        if not exchange.output.strip():
            return Example(self._packed(asked), len(asked))
        ids = whole + self._end if len(whole) < self._max_length else whole[: self._max_length]
        return Example(self._packed(ids), min(max(shared, 1), len(ids)))

    def _prompted(self, exchange: Exchange) -> tuple[str, list[int]]:
        """The prompt as text, and the tokens in front of it."""
        if self._prompt == "alpaca":
            return alpaca_prompt(exchange), self._beginning
        parts = [p for p in (exchange.instruction, exchange.input) if p]
        if self._prompt == "none":
            return "\n".join(parts) + "\n", self._beginning
        return self._in_chat("\n\n".join(parts)), []  # the template writes its own beginning

    def _in_chat(self, words: str) -> str:
        if not self._tokenizer.chat_template:
            raise UsageError("--prompt chat: the model has no chat template: use --prompt alpaca")
        turn = [{"role": "user", "content": well_formed(words)}]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turn, tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as reason:  # noqa: BLE001 - a template raises what it likes
            raise UsageError(
                f"--prompt chat: the model's chat template fails ({reason}): use --prompt alpaca"
            ) from None

    def _plain(self, text: str) -> list[int]:
        return self._beginning + encode(self._tokenizer, text) + self._end

    def _windows(self, ids: Sequence[int]) -> list[Example]:
        packed, length = self._packed(ids), self._max_length
        cut = [packed[i : i + length] for i in range(0, len(packed), length)]
        return [Example(window, 1) for window in cut if len(window) > 1]
