"""Multiple-choice tasks from local files of JSON lines ``{question, choices, label}``."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.errors import UsageError
from slimgpt.evaluate.prompts import FORMATS, Prompt, Question, format_of
from slimgpt.text import open_text
from slimgpt.tokenizer import well_formed

_SUFFIXES = (".jsonl", ".jsonl.gz")
_SPLITS = (".test", ".validation", ".valid", ".dev", ".train")
_ROW = '{"question": text, "choices": [two or more texts], "label": index of the right one}'


@dataclass(frozen=True, slots=True)
class LocalTask:
    """A task read from a file.

    Attributes:
        name: as it is reported.
        file: name of the file, without its folder.
        sha256: of the file.
        protocol: how questions are put, in words, with what differs from the standard task.
        prompts: in the file's order.
    """

    name: str
    file: str
    sha256: str
    protocol: str
    prompts: tuple[Prompt, ...]


def local_task(token: str, task_data: Path | None) -> LocalTask | None:
    """The local task of one entry of ``--tasks``.

    Args:
        token: the path of a .jsonl or .jsonl.gz file, which is named by its stem without a split
            like ``.test``; or a name, looked for in ``task_data`` as NAME.jsonl, NAME.test.jsonl,
            NAME.*.jsonl and NAME_*.jsonl, in this order.
        task_data: a folder of such files.

    Returns:
        None where there is no such file: the name may be one of lm-eval's.

    Raises:
        UsageError: several files match, a file is missing or a row is malformed.
    """
    if token.endswith(_SUFFIXES):
        path = Path(token).expanduser()
        if not path.is_file():
            raise UsageError(f"--tasks {token} is no file: give a .jsonl file or a task's name")
        return _read(_task_name(path), path)
    found = _find(token, task_data) if task_data else None
    return _read(token, found) if found else None


def local_names(task_data: Path | None) -> list[str]:
    """Names of the files in a folder, for suggestions."""
    return sorted({_task_name(path) for path in _files(task_data)}) if task_data else []


def _files(folder: Path) -> list[Path]:
    """Files of questions in a folder.

    Raises:
        UsageError: it is no folder.
    """
    if not folder.is_dir():
        raise UsageError(f"--task-data {folder} is no folder: give one with NAME.jsonl files")
    return sorted(p for p in folder.iterdir() if p.name.endswith(_SUFFIXES) and p.is_file())


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def _task_name(path: Path) -> str:
    stem = _stem(path)
    split = next((s for s in _SPLITS if stem.endswith(s) and stem != s), "")
    return stem.removesuffix(split)


def _find(name: str, folder: Path) -> Path | None:
    """The one file of a name; better matches hide worse ones."""
    stems = {path: _stem(path) for path in _files(folder)}
    for matches in (
        [p for p, stem in stems.items() if stem == name],
        [p for p, stem in stems.items() if stem == f"{name}.test"],
        [p for p, stem in stems.items() if stem.startswith(f"{name}.")],
        # arc_easy is a task of its own, not a variant of some task arc.
        [p for p, stem in stems.items() if stem.startswith(f"{name}_")],
    ):
        others = [p for p in matches if name not in FORMATS and _task_name(p) in FORMATS]
        if len(matches) > 1 or others:
            raise UsageError(
                f"--tasks {name} could be {', '.join(p.name for p in matches)} of --task-data "
                f"{folder}: give a whole name, or the path of one"
            )
        if matches:
            return matches[0]
    return None


def _read(name: str, path: Path) -> LocalTask:
    """All questions of a file.

    Raises:
        UsageError: naming the file and the line.
    """
    try:
        with open_text(path) as file:
            kind = format_of(name)
            prompts = tuple(
                _prompt(line, name, f"--tasks {path} line {number}")
                for number, line in enumerate(file, 1)
                if line.strip()
            )
            sha256 = file_sha256(path)
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as reason:
        raise UsageError(f"--tasks {path} is no readable UTF-8 text: {reason}") from None
    if not prompts:
        raise UsageError(f"--tasks {path} is empty: give lines of {_ROW}")
    return LocalTask(name, path.name, sha256, f"{path.name}, {kind.words}", prompts)


def _prompt(line: str, name: str, where: str) -> Prompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as reason:
        raise UsageError(f"{where} is no valid JSON: {reason}") from None
    problem = next(_problems(row), None)
    if problem:
        raise UsageError(f"{where}: {problem}; give {_ROW}")
    choices = tuple(well_formed(choice) for choice in row["choices"])
    try:
        prompt = format_of(name).prompt(
            Question(well_formed(row["question"]), choices, row["label"])
        )
    except ValueError as reason:
        raise UsageError(f"{where}: {reason}, which {name} needs") from None
    if not all(text.strip() for text in (*prompt.contexts, *prompt.targets)):
        raise UsageError(f"{where}: nothing is left to ask or to score in the format of {name}")
    return prompt


def _problems(row: Any) -> Iterator[str]:
    """What is wrong with a row, the most telling first."""
    if not isinstance(row, dict):
        yield f"a row is an object, not a {type(row).__name__}"
        return
    if missing := [key for key in ("question", "choices", "label") if key not in row]:
        yield f"{' and '.join(missing)} missing"
        return
    question, choices, label = row["question"], row["choices"], row["label"]
    if not isinstance(question, str) or not question.strip():
        yield "question is no text"
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        yield "choices is no list of texts"
    elif len(choices) < 2:
        yield f"{len(choices)} choices, of which none can be wrong"
    elif type(label) is not int or not 0 <= label < len(choices):
        yield f"label {json.dumps(label)} is none of 0 to {len(choices) - 1}"
