"""The tokenizer that runs without torch is the one that transformers has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from slimgpt.demo import MODEL
from slimgpt.errors import IntegrityError, UsageError
from slimgpt_serve.onnx_runtime.tokens import TransformersDecoder, load_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}"
    "{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
MESSAGES = [{"role": "user", "content": " Once upon "}, {"role": "assistant", "content": "a time"}]
OURS, THEIRS = load_tokenizer(MODEL), AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model's tokenizer, to be changed."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, tmp_path)
    return tmp_path


def settings_of(folder: Path, **changes: object) -> Path:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_it_reads_and_writes_as_transformers_does(text: str) -> None:
    ids = THEIRS(text)["input_ids"]
    assert OURS.encode(text) == ids
    assert OURS.encode(text, special=False) == THEIRS(text, add_special_tokens=False)["input_ids"]
    assert OURS.decode(ids) == TransformersDecoder(THEIRS).decode(ids)


def test_a_token_alone_has_a_name_special_or_not() -> None:
    [begin, *_] = ids = OURS.encode(" upon")
    assert OURS.token(begin) == "<s>"
    assert "".join(OURS.token(i) for i in ids[1:]) == " upon"


def test_lone_surrogates_are_question_marks() -> None:
    assert OURS.encode("caf\udce9") == OURS.encode("caf?")


def test_a_file_that_pads_or_cuts_changes_no_prompt(folder: Path) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    document["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    path.write_text(json.dumps(document))
    text = "Once upon a time, there was a little girl"
    assert load_tokenizer(folder).encode(text) == OURS.encode(text)


def test_without_tokenizer_json_transformers_makes_one(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(document["vocab"]))
    merges = [x if isinstance(x, str) else " ".join(x) for x in document["merges"]]
    (folder / "merges.txt").write_text("\n".join(merges))
    settings_of(folder, tokenizer_class="GPT2Tokenizer")
    expected = AutoTokenizer.from_pretrained(folder)("Once upon a time")["input_ids"]
    assert load_tokenizer(folder).encode("Once upon a time") == expected


# -- chat ------------------------------------------------------------------------------------------


def _own_file(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def _in_settings(folder: Path) -> None:
    settings_of(folder, chat_template=TEMPLATE)


def _among_others(folder: Path) -> None:
    named = [{"name": "rag", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    settings_of(folder, chat_template=named)


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{{ range(10**9) }}", "{% if", "{{ x.y.z }}"])
def test_a_template_that_breaks_refuses(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UsageError, match="template refuses the messages: ") as caught:
        load_tokenizer(folder).chat(MESSAGES)
    message = str(caught.value)
    assert not message.endswith(": ")
    assert "\n" not in message


@pytest.mark.parametrize("put", [_own_file, _in_settings, _among_others])
def test_a_chat_reads_as_in_transformers(folder: Path, put: Callable[[Path], None]) -> None:
    put(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.has_chat_template
    found = tokenizer.chat(MESSAGES)
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_dict=False
    )
    assert found == expected
    assert tokenizer.decode(found).endswith("<user>Once upon<assistant>a time<assistant>")


def test_a_template_that_refuses_gives_its_reason(folder: Path) -> None:
    _own_file(folder)
    with pytest.raises(UsageError, match="template refuses the messages: no tools here"):
        load_tokenizer(folder).chat([{"role": "tool", "content": "x"}])


def test_without_a_template_there_is_no_chat() -> None:
    assert not OURS.has_chat_template
    with pytest.raises(UsageError, match=r"no chat template.*chat_template\.jinja"):
        OURS.chat(MESSAGES)


# -- broken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", "{}", "can't be read as a tokenizer"),
        ("tokenizer_config.json", "[]", "holds a JSON list"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja can't be read"),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, content: str | bytes, says: str) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=says):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_links_out_of_the_export_are_not_followed(folder: Path, name: str) -> None:
    secret = folder.parent / f"{folder.name}-secret"
    shutil.move(folder / name, secret)
    (folder / name).symlink_to(secret)
    with pytest.raises(IntegrityError, match="link to a file outside"):
        load_tokenizer(folder)


def test_no_tokenizer_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


def test_it_loads_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from slimgpt_serve.onnx_runtime import tokens;"
        "tokens.load_tokenizer(Path(sys.argv[1])).encode('Once');"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, str(MODEL)], check=True)
