"""What ``slimgpt generate`` is asked for, and what it gives, whichever engine runs the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OnText = Callable[[str], None]
"""Told each piece of text as soon as it is certain."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be generated.

    Attributes:
        prompt: the text to go on from.
        max_new_tokens: at most; the model's context may allow fewer.
        stops: strings that end the text and are cut out.
        temperature: 0 takes the likeliest token every time.
        top_k: 0 is all.
        top_p: in (0, 1]; 1 is all.
        repetition_penalty: 1 is none.
        seed: of the draws.
        device: as ``--device``.
    """

    prompt: str
    max_new_tokens: int
    stops: tuple[str, ...]
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    device: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was generated, by what, in how many seconds (loading left out)."""

    text: str
    tokens: int
    finish_reason: str
    seconds: float
    engine: str
    provider: str
