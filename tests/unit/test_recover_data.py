"""From documents to examples: the prompt is Alpaca's, and only what is to be learnt is scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.reader import ConfigOnly, read_config
from slimgpt.demo import CALIBRATION, MODEL
from slimgpt.errors import IntegrityError, UsageError
from slimgpt.recover.data import Example, TrainingData, alpaca_prompt, load_training_data
from slimgpt.recover.options import RecoverOptions
from slimgpt.text import Exchange
from slimgpt.tokenizer import encode, load_tokenizer

BOS, EOS = 1, 2
WITH_INPUT = """Below is an instruction that describes a task, paired with an input that provides \
further context. Write a response that appropriately completes the request.

### Instruction:
Name the colour.

### Input:
grass

### Response:
"""
WITHOUT_INPUT = """Below is an instruction that describes a task. Write a response that \
appropriately completes the request.

### Instruction:
Name a colour.

### Response:
"""
ANSWERS = [
    "Green.",
    " Green, with a space in front",
    "\nOn the next line",
    "\n\n### Two lines down",
    "1. First\n2. Second\n",
    "naïve – “quoted” 🌱 日本語",
    "\tif x:\n\t\treturn\n",
    "a",
    "Below is an instruction",
]


def row(instruction: str, output: str, about: str = "") -> dict[str, str]:
    return {"instruction": instruction, "input": about, "output": output}


def exchanges(count: int) -> list[dict[str, str]]:
    return [row(f"Say {i}.", f"Here it is: {i}.") for i in range(count)]


@pytest.fixture(scope="module")
def meta() -> ConfigOnly:
    return read_config(MODEL)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL)


@pytest.fixture
def load(meta: ConfigOnly, tmp_path: Path) -> Any:
    """Examples of rows, written to a file."""

    def load(rows: list[Any], **options: Any) -> TrainingData:
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        return load_training_data(meta, [str(path)], RecoverOptions(**options))

    return load


def find(data: TrainingData, tokenizer: Any, words: str) -> Example:
    """The example that holds these words."""
    found = [e for e in (*data.train, *data.held_out) if words in tokenizer.decode(e.ids)]
    assert len(found) == 1
    return found[0]


def test_the_prompt_is_alpacas():
    assert alpaca_prompt(Exchange("Name the colour.", "grass", "green")) == WITH_INPUT
    assert alpaca_prompt(Exchange("Name a colour.", "", "green")) == WITHOUT_INPUT


def test_only_the_answer_is_scored_and_its_end(load, tokenizer):
    data = load([*exchanges(30), row("Name the colour.", "It is green.", "grass")])
    example = find(data, tokenizer, "grass")
    prompt = encode(tokenizer, WITH_INPUT)
    assert list(example.ids[: example.answer]) == [BOS, *prompt]
    assert list(example.ids[example.answer :]) == [*encode(tokenizer, "It is green."), EOS]
    assert example.scored == len(encode(tokenizer, "It is green.")) + 1


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("prompt", ["alpaca", "none"])
def test_the_border_is_where_the_answer_begins(load, tokenizer, answer, prompt):
    """Ids are those of the text as a whole, and those before the border those of the prompt."""
    data = load([*exchanges(30), row("Write it down.", answer)], prompt=prompt)
    example = find(data, tokenizer, "Write it down.")
    alpaca = alpaca_prompt(Exchange("Write it down.", "", ""))
    asked = alpaca if prompt == "alpaca" else "Write it down.\n"
    assert list(example.ids) == [BOS, *encode(tokenizer, asked + answer), EOS]
    before = tokenizer.decode(example.ids[1 : example.answer])
    assert asked.startswith(before)
    # All of the answer is scored; at most the last token of the prompt is, where they are one.
    assert tokenizer.decode(example.ids[example.answer : -1]).endswith(answer)
    assert asked.removeprefix(before) in ("", "\n")


@pytest.mark.parametrize("first", [[BOS], []], ids=["bos", "no bos"])
def test_the_border_is_right_for_a_sentencepiece_tokenizer(shared, tmp_path, first):
    """A real one: it writes a space in front of a text, and must not do so before an answer."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    shutil.copy(shared / "data/tokenizers/mistral-v3.model", folder / "tokenizer.model")
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": bool(first)}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 32768}))
    path = tmp_path / "data.json"
    rows = [row("Write it down.", answer) for answer in ANSWERS]
    path.write_text(json.dumps([*exchanges(30), *rows]))
    data = load_training_data(read_config(folder), [str(path)], RecoverOptions())
    tokenizer = load_tokenizer(folder)
    asked = alpaca_prompt(Exchange("Write it down.", "", ""))
    examples = {tuple(e.ids): e for e in (*data.train, *data.held_out)}
    for answer in ANSWERS:
        example = examples[*first, *encode(tokenizer, asked + answer), EOS]
        before = tokenizer.decode(example.ids[len(first) : example.answer])
        assert asked.removeprefix(before) in ("", "\n"), answer
        scored = tokenizer.decode(example.ids[example.answer : -1])
        assert scored.strip() == answer.strip()  # decoding drops a space in front


def test_long_answers_are_cut_and_then_have_no_end(load, tokenizer):
    answer = "and again " * 100
    data = load([*exchanges(30), row("Repeat.", answer)], max_length=100)
    example = find(data, tokenizer, "Repeat.")
    whole = [BOS, *encode(tokenizer, alpaca_prompt(Exchange("Repeat.", "", "")) + answer)]
    assert list(example.ids) == whole[:100]
    # With one token more than the text there is just room for the end; with none, there is not.
    rows = [*exchanges(30), row("Repeat.", "and again")]
    short = list(find(load(rows), tokenizer, "Repeat.").ids)
    assert short[-1] == EOS
    for length, expected in ((len(short), short), (len(short) - 1, short[:-1])):
        cut = find(load(rows, max_length=length), tokenizer, "Repeat.")
        assert list(cut.ids) == expected


def test_a_prompt_without_room_or_answer_is_dropped_and_counted(load):
    unusable = [row("Read this. " * 60, "yes"), row("Answer.", ""), row("Answer.", " \n")]
    data = load([*exchanges(30), *unusable], max_length=96)
    assert data.dropped == 3
    assert len(data.train) + len(data.held_out) == 30
    assert data.describe()["dropped"] == 3


def test_every_example_has_something_to_predict_and_to_predict_it_from(load):
    data = load([*exchanges(40), row("", "x"), row("", "y" * 2000)], prompt="none", max_length=32)
    for example in (*data.train, *data.held_out):
        assert 1 <= example.answer < len(example.ids) <= 32


def test_plain_text_becomes_disjoint_windows_of_all_its_tokens(meta, tokenizer, tmp_path):
    text = "It was a bright cold day in April, and the clocks were striking thirteen.\n" * 60
    path = tmp_path / "book.txt"
    path.write_text(text)
    data = load_training_data(meta, [str(path)], RecoverOptions(max_length=64, seed=3))
    windows = [*data.train, *data.held_out]
    assert all(e.answer == 1 for e in windows)
    whole = [BOS, *encode(tokenizer, text), EOS]
    expected = [whole[i : i + 64] for i in range(0, len(whole), 64)]
    # The text repeats itself: a window that is held out is not trained on as a copy.
    assert len(windows) + data.dropped == len([w for w in expected if len(w) > 1])
    assert {tuple(e.ids) for e in windows} == {tuple(w) for w in expected if len(w) > 1}


def test_rows_of_ids_are_taken_as_they_are_and_need_no_tokenizer(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    data = load_training_data(read_config(folder), [str(CALIBRATION)], RecoverOptions())
    rows = [tuple(json.loads(line)["input_ids"]) for line in CALIBRATION.read_text().splitlines()]
    assert {tuple(e.ids) for e in (*data.train, *data.held_out)} == set(rows)
    assert data.sources == ("calibration.jsonl",)


def test_ids_beyond_the_vocabulary_are_refused(load):
    for wrong in (4096, -1, 10**30):
        rows = [*({"input_ids": [5, i]} for i in range(3, 40)), {"input_ids": [5, wrong]}]
        with pytest.raises(IntegrityError, match=rf"--data: token id {wrong} is beyond"):
            load(rows)


def test_the_held_out_part_is_disjoint_seeded_and_at_most_a_tenth(load):
    rows = [{"input_ids": [3, *divmod(i, 50), 4]} for i in range(205)]
    rows = [{"input_ids": [x + 3 for x in r["input_ids"]]} for r in rows]
    for asked, kept in ((2000, 20), (20, 20), (7, 7)):
        data = load(rows, held_out=asked)
        assert (len(data.held_out), len(data.train)) == (kept, 205 - kept)
        assert not {e.key for e in data.train} & {e.key for e in data.held_out}
    same, other = load(rows), load(rows, seed=1)
    assert same == load(rows)
    assert {e.key for e in same.held_out} != {e.key for e in other.held_out}
    assert same.sha256 == other.sha256


def test_copies_of_a_held_out_example_are_not_trained_on(load):
    rows = [{"input_ids": [3, 4 + i % 25, 5]} for i in range(100)]
    data = load(rows)
    assert len(data.held_out) == 10
    assert not {e.key for e in data.train} & {e.key for e in data.held_out}
    assert len(data.train) + len(data.held_out) + data.dropped == 100


def test_the_description_says_what_was_used_and_changes_with_it(load):
    rows = exchanges(40)
    described = load(rows).describe()
    scored = sum(e.scored for e in load(rows).held_out)
    assert described == {
        "sources": ["data.jsonl"],
        "examples": 36,
        "held_out": 4,
        "dropped": 0,
        "held_out_tokens": scored,
        "sha256": described["sha256"],
    }
    digests = {described["sha256"], load(rows, max_length=64).describe()["sha256"]}
    digests |= {load(r).describe()["sha256"] for r in (rows[:-1], [*rows[:-1], row("Say.", "It")])}
    assert len(digests) == 4


def test_too_few_examples_are_refused(load):
    says = "different usable examples, too few to hold any out: give at least 10, or raise"
    with pytest.raises(UsageError, match=f"--data has 9 {says} --max-length"):
        load(exchanges(9))
    with pytest.raises(UsageError, match=f"--data has 1 {says}"):
        load([{"input_ids": [3, 4, 5]}] * 40)
    with pytest.raises(UsageError, match=f"--data has 0 {says}"):
        load(exchanges(40), max_length=8)
    assert len(load(exchanges(10)).held_out) == 1


def test_a_length_beyond_the_context_is_refused(load):
    says = "--max-length 257 is beyond the model's context: give at most 256 tokens"
    with pytest.raises(UsageError, match=says):
        load(exchanges(40), max_length=257)
    load(exchanges(40), max_length=256)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    "{% if add_generation_prompt %} {% endif %}"
)


def with_template(path: Path, template: str) -> ConfigOnly:
    shutil.copytree(MODEL, path)
    (path / "chat_template.jinja").write_text(template)
    return read_config(path)


def test_a_chat_prompt_is_the_models_own_template(tmp_path):
    meta = with_template(tmp_path / "model", TEMPLATE)
    path = tmp_path / "data.json"
    path.write_text(json.dumps([*exchanges(30), row("Name the colour.", "green", "grass")]))
    data = load_training_data(meta, [str(path)], RecoverOptions(prompt="chat"))
    tokenizer = load_tokenizer(meta.directory)
    example = find(data, tokenizer, "grass")
    assert example.ids[0] == BOS != example.ids[1]
    asked = "[INST] Name the colour.\n\ngrass [/INST] "
    assert list(example.ids) == [BOS, *encode(tokenizer, asked + "green"), EOS]
    assert tokenizer.decode(example.ids[example.answer : -1]).strip() == "green"


def test_a_chat_prompt_needs_a_template_that_works(load, tmp_path):
    with pytest.raises(UsageError, match="--prompt chat: the model has no chat template: use"):
        load(exchanges(30), prompt="chat")
    broken = with_template(tmp_path / "model", "{{ raise_exception('no such role') }}")
    path = tmp_path / "data.json"
    path.write_text(json.dumps(exchanges(30)))
    says = r"chat template fails \(no such role\): use --prompt alpaca"
    with pytest.raises(UsageError, match=says):
        load_training_data(broken, [str(path)], RecoverOptions(prompt="chat"))
