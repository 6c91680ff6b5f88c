"""Text and tokenizers that cannot be used: one line, the right exit code, nothing written."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimgpt.demo import CALIBRATION
from tests.command_line import INTEGRITY, USAGE, Desk
from tests.spoiling import Spoil, a_folder, chain, holding

NO_TEXT = "has no text: a row needs text, input_ids, or instruction, input and output"
NO_UTF8 = "is no readable UTF-8 text"
NO_JSON = "is no valid JSON"
EMPTY = "is empty: give a file with text"
LONG = "It was a bright cold day in April. " * 200


def rows(*values: Any) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def ids(*values: Any) -> dict[str, Any]:
    return {"input_ids": list(values)}


TEXTS: dict[str, tuple[str, bytes, int, tuple[str, ...]]] = {
    "empty": ("x.txt", b"", USAGE, (EMPTY,)),
    "blank": ("x.txt", b" \n\t\n", USAGE, (EMPTY,)),
    "binary": ("x.txt", bytes(range(256)) * 20, USAGE, (NO_UTF8,)),
    "zero bytes": ("x.parquet", b"PAR1" + bytes(4000), USAGE, ("zero bytes", ".txt, .jsonl")),
    "UTF-16": ("x.txt", LONG.encode("utf-16"), USAGE, (NO_UTF8,)),
    "no gzip": ("x.txt.gz", LONG.encode(), USAGE, (NO_UTF8, "gzip")),
    "half a gzip": ("x.txt.gz", gzip.compress(LONG.encode())[:50], USAGE, (NO_UTF8,)),
    "damaged gzip": (
        "x.txt.gz",
        gzip.compress(LONG.encode())[:30] + b"\xff" * 99,
        USAGE,
        (NO_UTF8,),
    ),
    "no rows": ("x.jsonl", b"\n\n", USAGE, (EMPTY,)),
    "empty rows": ("x.jsonl", rows({"text": ""}, {"text": " "}), USAGE, (EMPTY,)),
    "rows of no ids": ("x.jsonl", rows(ids()), USAGE, (EMPTY,)),
    "half a row": ("x.jsonl", rows({"text": "a"}) + b'{"text":\n', USAGE, ("line 2", NO_JSON)),
    "a row nested without end": ("x.jsonl", b"[" * 100_000, USAGE, ("line 1", NO_JSON)),
    "a row of a number": ("x.jsonl", rows(5), USAGE, ("line 1", NO_TEXT)),
    "a row of a list": ("x.jsonl", rows([1, 2]), USAGE, ("line 1", NO_TEXT)),
    "a row of another field": (
        "x.jsonl",
        rows({"text": "a"}, {"content": "b"}),
        USAGE,
        ("line 2", NO_TEXT),
    ),
    "text null": ("x.jsonl", rows({"text": None}), USAGE, ("line 1", NO_TEXT)),
    "ids in words": ("x.jsonl", rows(ids("5")), USAGE, ("line 1", NO_TEXT)),
    "ids true": ("x.jsonl", rows(ids(*[True] * 200)), USAGE, ("line 1", NO_TEXT)),
    "ids nested": ("x.jsonl", rows(ids([5] * 200)), USAGE, ("line 1", NO_TEXT)),
    "half a list": ("x.json", b"[{", USAGE, (NO_JSON,)),
    "an object": ("x.json", b'{"text": "a"}', USAGE, ("holds no list of rows",)),
    "a number": ("x.json", b"5", USAGE, ("holds no list of rows",)),
    "an empty list": ("x.json", b"[]", USAGE, (EMPTY,)),
    "a row in a list": ("x.json", b'[{"text": "a"}, {}]', USAGE, ("row 2", NO_TEXT)),
    "id beyond": (
        "x.jsonl",
        rows(ids(*[5] * 200, 4096)),
        INTEGRITY,
        ("token id 4096 is beyond the model's vocabulary of 4096",),
    ),
    "id negative": ("x.jsonl", rows(ids(*[5] * 200, -1)), INTEGRITY, ("token id -1",)),
    "id of 30 digits": ("x.jsonl", rows(ids(*[10**30] * 200)), INTEGRITY, ("token id 1000",)),
}


@pytest.mark.parametrize("verb", ["prune", "evaluate"])
@pytest.mark.parametrize(("name", "content", "code", "says"), TEXTS.values(), ids=TEXTS)
def test_text_that_is_none(
    desk: Desk, name: str, content: bytes, code: int, says: tuple[str, ...], verb: str
) -> None:
    path = desk.root / name
    path.write_bytes(content)
    if verb == "prune":
        desk.refuses(desk.prune("--calibration", path), code, "--calibration", *says)
    else:
        command = ["evaluate", str(desk.model), "--text", str(path)]
        desk.refuses(command, code, f"--text {path}", *says)


@pytest.mark.parametrize("name", ["missing.txt", "model", ""])
def test_text_that_is_no_file(desk: Desk, name: str) -> None:
    path = desk.root / name
    desk.refuses(desk.prune("--calibration", path), USAGE, f"--calibration {path} is no file")
    command = ["evaluate", str(desk.model), "--text", str(path)]
    desk.refuses(command, USAGE, f"--text {path} is no file: give text as .txt, .jsonl or .json")


def test_text_that_is_too_short(desk: Desk) -> None:
    path = desk.root / "x.txt"
    path.write_text("It was a bright cold day.")
    says = "--calibration has", "too short for 8 distinct windows of 32", "lower --samples"
    desk.refuses(desk.prune("--calibration", path), USAGE, *says)
    command = ["evaluate", str(desk.model), "--text", str(path)]
    desk.refuses(command, USAGE, f"--text {path} has", "fewer than one --window of 128")


def test_rows_that_are_too_few(desk: Desk) -> None:
    path = desk.root / "x.jsonl"
    path.write_bytes(rows(*[ids(*range(32))] * 7, ids(*range(31))))
    says = "7 rows of at least 32 token ids", "too short for 8 windows", "give more rows"
    desk.refuses(desk.prune("--calibration", path), USAGE, *says)


def test_text_to_score_of_two_kinds(desk: Desk) -> None:
    path = desk.root / "x.jsonl"
    path.write_bytes(rows(ids(*[5] * 200), {"text": LONG}))
    command = ["evaluate", str(desk.model), "--text", str(path)]
    desk.refuses(command, USAGE, f"--text {path} mixes rows of text with rows of token ids")


# -- tokenizers ------------------------------------------------------------------------------------

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def gone(*names: str) -> Spoil:
    def spoil(desk: Desk) -> None:
        for name in names:
            (desk.model / name).unlink()

    return spoil


def smaller_than_its_tokenizer(desk: Desk) -> None:
    embedding = "model.embed_tokens.weight"
    desk.edit_config(vocab_size=300)
    desk.edit_weights(lambda w: w.update({embedding: w[embedding][:300].clone()}))


TOKENIZERS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "none": (gone(TOKENIZER, TOKENIZER_CONFIG), ("has no tokenizer", "copy it from the original")),
    "settings only": (gone(TOKENIZER), ("has no tokenizer",)),
    "half a file": (holding(TOKENIZER, b'{"version":'), ("tokenizer of", "can't be loaded")),
    "other JSON": (holding(TOKENIZER, b'{"a": 1}'), ("tokenizer of", "can't be loaded")),
    "a folder": (a_folder(TOKENIZER), ("tokenizer of", "can't be loaded")),
    "garbage for SentencePiece": (
        chain(gone(TOKENIZER, TOKENIZER_CONFIG), holding("tokenizer.model", b"garbage" * 99)),
        ("tokenizer of", "can't be loaded"),
    ),
    "settings a list": (holding(TOKENIZER_CONFIG, b"[]"), (TOKENIZER_CONFIG, "JSON list")),
    "settings no JSON": (holding(TOKENIZER_CONFIG, b"{"), (TOKENIZER_CONFIG, "not valid JSON")),
    "larger than the model": (
        smaller_than_its_tokenizer,
        ("is beyond the model's vocabulary of 300", "need the same tokenizer"),
    ),
}
COMMANDS: dict[str, Callable[[Desk, Path], list[str]]] = {
    "prune": lambda desk, text: desk.prune("--calibration", text),
    "evaluate": lambda desk, text: ["evaluate", str(desk.model), "--text", str(text)],
    "generate": lambda desk, text: ["generate", str(desk.model), LONG[:60]],
}


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize(("spoil", "says"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_that_does_not_fit(
    desk: Desk, spoil: Spoil, says: tuple[str, ...], verb: str
) -> None:
    text = desk.root / "x.txt"
    text.write_text(LONG)
    spoil(desk)
    desk.refuses(COMMANDS[verb](desk, text), INTEGRITY, *says)


def test_transformers_adds_no_line_of_its_own(desk: Desk) -> None:
    spoil, says = TOKENIZERS["garbage for SentencePiece"]
    spoil(desk)
    command = ["generate", str(desk.model), "Once"]
    desk.refuses(command, INTEGRITY, *says, how=desk.execute)


def test_token_ids_need_no_tokenizer(desk: Desk) -> None:
    gone(TOKENIZER, TOKENIZER_CONFIG)(desk)
    ended = desk.run(desk.prune("--calibration", CALIBRATION, "--quiet"))
    assert (ended.code, ended.stderr) == (0, "")


def test_a_beginning_token_beyond_the_vocabulary_cannot_start_a_sample(desk: Desk) -> None:
    desk.edit_config(bos_token_id=99_999)
    gone("generation_config.json")(desk)
    says = "--calibration self", "bos_token_id is 99999; it must be from 0 to 4095"
    desk.refuses(desk.prune("--calibration", "self"), INTEGRITY, *says)
