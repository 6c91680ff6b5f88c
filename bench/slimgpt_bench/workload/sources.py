"""Where the prompts of requests come from; each makes one of a given length, from a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from slimgpt.errors import UsageError
from slimgpt_bench.workload.datasets import Sample

Prompt = str | list[int]

_COMMON = """
the of and to in is that it for was on are as with his they at be this from have or by one had
not but what all were when we there can an your which their said if do will each about how up
out them then she many some so these would other into has more her two like him see time could
no make than first been its who now people my made over did down only way find use may water
long little very after words called just where most know
"""
WORDS = tuple(_COMMON.split())
"""Common words, which most tokenizers have as one token each."""

_FITTING_STEPS = 12


class Source(Protocol):
    """Makes prompts."""

    def prompt(self, rng: np.random.Generator, tokens: int) -> Prompt:
        """One of about ``tokens`` tokens: of exactly so many where it is a list of ids."""


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Random tokens, so that no two prompts begin alike and no cache of prefixes helps.

    Attributes:
        ids: that may be drawn: the vocabulary without its special tokens.
    """

    ids: Sequence[int]

    def prompt(self, rng: np.random.Generator, tokens: int) -> Prompt:
        picked = rng.integers(0, len(self.ids), size=tokens).tolist()
        return [self.ids[i] for i in picked]


@dataclass(frozen=True, slots=True)
class Words:
    """Random words.

    Attributes:
        tokens_per_word: as the server counts them.
        extra_tokens: that it adds to every prompt: a beginning, a chat template.
    """

    tokens_per_word: float = 1.0
    extra_tokens: float = 0.0

    def prompt(self, rng: np.random.Generator, tokens: int) -> Prompt:
        return words(rng, max(1, round((tokens - self.extra_tokens) / self.tokens_per_word)))


def words(rng: np.random.Generator, count: int) -> str:
    """Random words, with blanks between them."""
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), size=count).tolist())


@dataclass(frozen=True, slots=True)
class FittedWords:
    """Random words, as many as make the length: for endpoints that take text alone.

    Decoding random tokens to text would not do: encoded again they are of another length.

    Attributes:
        tokenizer: of the served model.
    """

    tokenizer: Any

    def prompt(self, rng: np.random.Generator, tokens: int) -> Prompt:
        from slimgpt.tokenizer import encode

        picked = words(rng, tokens).split()
        count = len(picked)
        best, distance = picked[0], tokens
        for _ in range(_FITTING_STEPS):
            text = " ".join(picked[:count])
            found = len(encode(self.tokenizer, text))
            if abs(found - tokens) < distance:
                best, distance = text, abs(found - tokens)
            step = round((tokens - found) * count / max(found, 1))
            step = step or (tokens > found) - (tokens < found)
            if not step:
                break
            count = max(1, count + step)
            if count > len(picked):
                picked += words(rng, count - len(picked)).split()
        return best


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of a text at random places.

    Attributes:
        parts: tokens or words of the text.
        tokenizer: turns tokens back to text where text is to be sent; None sends ids.
        name: of the file, for messages.
    """

    parts: Sequence[int] | Sequence[str]
    tokenizer: Any = None
    name: str = "the text"

    def require(self, tokens: int) -> None:
        """Refuses windows that are longer than the text.

        Raises:
            UsageError: they are.
        """
        if tokens > len(self.parts):
            raise UsageError(
                f"--dataset {self.name} has {len(self.parts):,} tokens, and a prompt is to have "
                f"{tokens:,}: give a longer text or a shorter --prompt"
            )

    def prompt(self, rng: np.random.Generator, tokens: int) -> Prompt:
        start = int(rng.integers(0, len(self.parts) - tokens + 1))
        window: Any = list(self.parts[start : start + tokens])
        if window and isinstance(window[0], str):
            return " ".join(window)
        if self.tokenizer is None:
            return [int(i) for i in window]
        return str(self.tokenizer.decode(window))


@dataclass(frozen=True, slots=True)
class Samples:
    """The prompts of a dataset, each once before any comes again.

    Attributes:
        samples: at least one.
    """

    samples: Sequence[Sample]

    def order(self, rng: np.random.Generator) -> list[int]:
        """A random order of all of them."""
        found: list[int] = rng.permutation(len(self.samples)).tolist()
        return found
