"""From a multiple-choice question to the texts that a model scores, as lm-eval writes them.

The formats are those of lm_eval 0.4.13's own tasks as far as ``{question, choices, label}`` allows;
what is missing is said in words beside every number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

BLANK = "_"


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a local file.

    Attributes:
        text: the question.
        choices: two or more.
        label: index of the right one.
    """

    text: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model reads and what is scored: a space and ``targets``.

    One of the two has a text for each choice, the other has one text for all.
    """

    contexts: tuple[str, ...]
    targets: tuple[str, ...]
    label: int


@dataclass(frozen=True, slots=True)
class Format:
    """How questions become prompts.

    Attributes:
        words: the same for people, with what differs from the standard task.
        prompt: raises ValueError, with the reason, for a question that it can't take.
    """

    words: str
    prompt: Callable[[Question], Prompt]


def _question_and_answer(question: Question) -> Prompt:
    return Prompt((f"Question: {question.text}\nAnswer:",), question.choices, question.label)


def _bare(question: Question) -> Prompt:
    return Prompt((question.text,), question.choices, question.label)


def _yes_or_no(question: Question) -> Prompt:
    """One question mark, whether the file has it (as here) or not (as the hub's set)."""
    text = question.text.rstrip().removesuffix("?")
    return Prompt((f"Question: {text}?\nAnswer:",), question.choices, question.label)


def _without_marks(question: Question) -> Prompt:
    choices = tuple(_preprocessed(choice) for choice in question.choices)
    return Prompt((_preprocessed(question.text),), choices, question.label)


def _preprocessed(text: str) -> str:
    """lm-eval's cleaning of HellaSwag: brackets are left-overs of WikiHow."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _filled_blank(question: Question) -> Prompt:
    """Partial scoring (Trinh and Le 2018): each option in the blank, what follows is scored."""
    before, blank, after = question.text.partition(BLANK)
    if not blank:
        raise ValueError(f"the question has no blank ({BLANK})")
    return Prompt(
        tuple(before + choice for choice in question.choices), (after.strip(),), question.label
    )


_QUESTION = "'Question: … Answer:' before each choice"
GENERIC = Format(f"generic prompt ({_QUESTION}), of no lm-eval task", _question_and_answer)
FORMATS: dict[str, Format] = {
    "arc_easy": Format(f"as lm-eval's arc_easy ({_QUESTION})", _question_and_answer),
    "arc_challenge": Format(f"as lm-eval's arc_challenge ({_QUESTION})", _question_and_answer),
    "openbookqa": Format("as lm-eval's openbookqa (the bare question before each choice)", _bare),
    "piqa": Format(f"as lm-eval's piqa ({_QUESTION})", _question_and_answer),
    "boolq": Format(
        "as lm-eval's boolq ('Question: …? Answer:' before each choice) but without the passage: "
        "not comparable with published boolq",
        _yes_or_no,
    ),
    "hellaswag": Format(
        "as lm-eval's hellaswag (marks in brackets removed) but without the activity label, and "
        "with the file's capitals",
        _without_marks,
    ),
    "winogrande": Format(
        "as lm-eval's winogrande (partial scoring: what follows the blank, after each option); "
        "acc_norm is acc, since the scored text is the same",
        _filled_blank,
    ),
}
"""The paper's seven tasks."""


def format_of(stem: str) -> Format:
    """The format of a file ``NAME``, ``NAME_anything``, ``NAME.anything`` or ``NAME-anything``."""
    for name, known in FORMATS.items():
        if re.match(rf"{name}(?:[_.-]|$)", stem):
            return known
    return GENERIC
