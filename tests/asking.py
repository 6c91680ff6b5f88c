"""Questions for tasks, and a model that is asked them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.reader import ConfigOnly
from slimgpt.evaluate.quiet import quiet
from slimgpt.evaluate.scores import TaskScore
from slimgpt.evaluate.tasks import choose_tasks, evaluate_tasks, load_tasks
from slimgpt.loading import load_model
from slimgpt.progress import Silent

with quiet():
    pass  # isort: skip

Loaded = tuple[Any, ConfigOnly]

QUESTIONS = [
    ("What falls from the sky?", ["rain", "the table and the chairs", "a king"], 0),
    ("Who wrote the letter?", ["The old man.", "nobody", "a very long train of thought"], 2),
    ("It was a cold day in", ["April", "the month that comes before May"], 1),
    ("She opened the door and", ["went out", "flew over the sea to India", "ate it"], 0),
    ("Where do fish live?", ["in trees", "in the sea", "in a book", "on a hill"], 1),
    ("The dog began to", ["bark", "speak of politics with his friend"], 0),
    ("How many legs has a horse?", ["two", "four", "eleven hundred"], 1),
    ("At night the stars", ["shine", "are quiet"], 1),
]
BLANKS = [
    ("The cup fell off the table because the _ was round.", ["cup", "table"], 0),
    ("Tom gave Jim the book, since _ had read it.", ["Tom", "Jim"], 0),
    ("The man could not lift his son because _ was so heavy.", ["the man", "the son"], 1),
    ("Mary asked Anne to sing, but _ was tired.", ["Mary", "Anne"], 1),
]


def rows(questions: Sequence[tuple[str, list[str], int]]) -> list[dict[str, Any]]:
    return [{"question": q, "choices": c, "label": a} for q, c, a in questions]


def write(path: Path, questions: Sequence[tuple[str, list[str], int]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(questions)))
    return path


@pytest.fixture(name="loaded", scope="module")
def small_model(small: Path) -> Loaded:
    return load_model(small, device="cpu")


def evaluate(loaded: Loaded, *tokens: Any, num_fewshot: int | None = None, **how: Any) -> TaskScore:
    entries = load_tasks(choose_tasks([str(t) for t in tokens], num_fewshot=num_fewshot))
    scores = evaluate_tasks(*loaded, entries, **how)
    assert len(scores) == 1
    return next(iter(scores.values()))


class Told(Silent):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)
