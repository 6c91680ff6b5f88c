"""Finding and reading local multiple-choice files, and the prompts made of them."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from slimgpt.errors import UsageError
from slimgpt.evaluate.local_tasks import LocalTask, local_names, local_task
from slimgpt.evaluate.prompts import Prompt

ROW = {"question": "What is up?", "choices": ["the sky", "the floor"], "label": 0}
ROW_SHAPE = '"label": index of the right one'


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or (ROW,)))
    return path


def found(token: str, folder: Path | None = None) -> LocalTask:
    task = local_task(token, folder)
    assert task
    return task


def prompt(name: str, tmp_path: Path, **row: Any) -> Prompt:
    write(tmp_path / f"{name}.jsonl", ROW | row)
    return found(name, tmp_path).prompts[0]


# -- finding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["mine.jsonl", "mine.test.jsonl", "mine.dev.jsonl", "mine_b.jsonl"], "mine.jsonl"),
        (["mine.test.jsonl", "mine.dev.jsonl", "mine_b.jsonl"], "mine.test.jsonl"),
        (["mine.dev.jsonl", "mine_b.jsonl", "mine_c.jsonl"], "mine.dev.jsonl"),
        (["mine_b.test.jsonl", "miner.jsonl", "mine.txt", "a_mine.jsonl"], "mine_b.test.jsonl"),
    ],
)
def test_the_best_match_is_taken(tmp_path: Path, files: list[str], chosen: str) -> None:
    for name in files:
        write(tmp_path / name)
    task = found("mine", tmp_path)
    assert (task.name, task.file) == ("mine", chosen)
    assert task.sha256 == hashlib.sha256((tmp_path / chosen).read_bytes()).hexdigest()
    assert task.protocol.startswith(f"{chosen}, ")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["arc_easy.test.jsonl", "arc_challenge.test.jsonl"], "arc"),
        (["arc_easy.test.jsonl"], "arc"),  # a task of its own, not a variant of arc
        (["mine.dev.jsonl", "mine.train.jsonl"], "mine"),
        (["mine.jsonl", "mine.jsonl.gz"], "mine"),
        (["mine_a.jsonl", "mine_b.jsonl"], "mine"),
    ],
)
def test_several_matches_are_refused_with_their_names(
    tmp_path: Path, files: list[str], name: str
) -> None:
    for file in files:
        write(tmp_path / file)
    with pytest.raises(UsageError, match=f"--tasks {name} could be") as refused:
        local_task(name, tmp_path)
    assert all(file in str(refused.value) for file in files)
    assert "give a whole name, or the path of one" in str(refused.value)


def test_a_name_without_a_file_is_somebody_elses(tmp_path: Path) -> None:
    write(tmp_path / "boolq.test.jsonl")
    assert local_task("piqa", tmp_path) is None
    assert local_task("boolq", None) is None
    assert local_names(tmp_path) == ["boolq"]
    assert local_names(None) == []


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.test.jsonl", "mine.jsonl.gz"])
def test_a_path_is_a_task_named_by_its_stem(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = (json.dumps(ROW) + "\n").encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    task = found(str(path))
    assert (task.name, task.file, len(task.prompts)) == ("mine", name, 1)


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--tasks .*no\.jsonl is no file: give a \.jsonl file"):
        local_task(str(tmp_path / "no.jsonl"), None)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--task-data .*no is no folder"):
        local_task("boolq", tmp_path / "no")


# -- reading ---------------------------------------------------------------------------------------

BAD_ROWS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b'{"question":', "is no valid JSON"),
    "nested without end": (b"[" * 100_000, "is no valid JSON"),
    "a list": (b"[1]", "a row is an object, not a list"),
    "nothing of it": (b"{}", "question and choices and label missing"),
    "no label": (b'{"question": "a", "choices": ["b", "c"]}', "label missing"),
    "question null": (b'{"question": null, "choices": ["b", "c"], "label": 0}', "question is no"),
    "question blank": (b'{"question": " ", "choices": ["b", "c"], "label": 0}', "question is no"),
    "choices a text": (b'{"question": "a", "choices": "bc", "label": 0}', "choices is no list"),
    "a choice blank": (b'{"question": "a", "choices": ["b", ""], "label": 0}', "choices is no"),
    "a choice a number": (b'{"question": "a", "choices": ["b", 2], "label": 0}', "choices is no"),
    "one choice": (b'{"question": "a", "choices": ["b"], "label": 0}', "1 choices, of which none"),
    "label beyond": (b'{"question": "a", "choices": ["b", "c"], "label": 2}', "label 2 is none of"),
    "label negative": (b'{"question": "a", "choices": ["b", "c"], "label": -1}', "label -1 is"),
    "label true": (b'{"question": "a", "choices": ["b", "c"], "label": true}', "label true is"),
    "label a text": (b'{"question": "a", "choices": ["b", "c"], "label": "0"}', 'label "0" is'),
}


@pytest.mark.parametrize(("line", "says"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(UsageError) as refused:
        local_task(str(path), None)
    assert str(refused.value).startswith(f"--tasks {path} line 3")
    assert says in str(refused.value)
    assert says == "is no valid JSON" or ROW_SHAPE in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.jsonl", b"\n \n", "is empty: give lines of"),
        ("x.jsonl", b"\xff\xfe\x00", "is no readable UTF-8 text"),
        ("x.jsonl.gz", b"no gzip", "is no readable UTF-8 text"),
        ("x.jsonl.gz", gzip.compress(b"x" * 999, mtime=0)[:20], "is no readable UTF-8 text"),
    ],
)
def test_a_file_that_holds_no_questions(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=says):
        local_task(str(tmp_path / name), None)


def test_text_that_no_tokenizer_takes_is_mended(tmp_path: Path) -> None:
    made = prompt("mine", tmp_path, question="a\ud800b", choices=["\udfff", "c"])
    assert made == Prompt(("Question: a?b\nAnswer:",), ("?", "c"), 0)


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge", "piqa", "mine"])
def test_a_question_stands_before_its_answer(tmp_path: Path, name: str) -> None:
    expected = Prompt(("Question: What is up?\nAnswer:",), ("the sky", "the floor"), 0)
    assert prompt(name, tmp_path) == expected


def test_openbookqa_goes_on_from_the_bare_question(tmp_path: Path) -> None:
    assert prompt("openbookqa", tmp_path).contexts == ("What is up?",)


@pytest.mark.parametrize("question", ["is it up", "is it up?", "is it up? "])
def test_boolq_has_one_question_mark(tmp_path: Path, question: str) -> None:
    made = prompt("boolq", tmp_path, question=question, choices=["no", "yes"], label=1)
    assert made == Prompt(("Question: is it up?\nAnswer:",), ("no", "yes"), 1)


def test_hellaswag_loses_its_marks(tmp_path: Path) -> None:
    made = prompt(
        "hellaswag",
        tmp_path,
        question="[header] How to sit [title] Find a chair. [step] Look.",
        choices=["[substeps] Sit down.", "Stand."],
    )
    assert made.contexts == (" How to sit. Find a chair. Look.",)
    assert made.targets == (" Sit down.", "Stand.")


def test_winogrande_scores_what_follows_the_blank(tmp_path: Path) -> None:
    made = prompt(
        "winogrande",
        tmp_path,
        question="Ann thanked Bea because _ had helped.",
        choices=["Ann", "Bea"],
        label=1,
    )
    contexts = ("Ann thanked Bea because Ann", "Ann thanked Bea because Bea")
    assert made == Prompt(contexts, ("had helped.",), 1)


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("winogrande", {"question": "No blank."}, r"has no blank \(_\), which winogrande needs"),
        ("winogrande", {"question": "It was _"}, "nothing is left to ask or to score"),
        ("hellaswag", {"choices": ["[title]", "x"]}, "nothing is left to ask or to score"),
        ("hellaswag", {"question": "[step]"}, "nothing is left to ask or to score"),
    ],
)
def test_a_row_that_its_format_can_not_take(
    tmp_path: Path, name: str, row: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=f"line 1: .*{says}"):
        prompt(name, tmp_path, **row)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("boolq", "without the passage: not comparable with published boolq"),
        ("hellaswag", "without the activity label"),
        ("hellaswag_abstainqa", "as lm-eval's hellaswag"),
        ("winogrande", "partial scoring"),
        ("arc_easy", "as lm-eval's arc_easy"),
        ("piqa-dutch", "as lm-eval's piqa"),
        ("piqant", "generic prompt"),
        ("mine", "generic prompt ('Question: … Answer:' before each choice), of no lm-eval task"),
    ],
)
def test_the_protocol_says_what_differs(tmp_path: Path, name: str, words: str) -> None:
    write(tmp_path / f"{name}.jsonl", ROW | {"question": "What is _ up?"})
    assert words in found(name, tmp_path).protocol


def test_the_projects_files_are_read_whole(shared: Path) -> None:
    counts = {
        "arc_easy": 2376,
        "arc_challenge": 1172,
        "openbookqa": 500,
        "piqa": 1838,
        "winogrande": 1267,
        "boolq": 3270,
        "hellaswag": 1000,
    }
    folder = shared / "data" / "zeroshot"
    assert {name: len(found(name, folder).prompts) for name in counts} == counts
