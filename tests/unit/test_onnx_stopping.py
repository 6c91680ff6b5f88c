"""Text as tokens come: whole characters, spaces where they belong, stop strings, ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from slimgpt.demo import MODEL
from slimgpt_serve.onnx_runtime.continuation import Continuation
from slimgpt_serve.onnx_runtime.sampling import SamplingOptions
from slimgpt_serve.onnx_runtime.text import Detokenizer, StopStrings, TextStream
from slimgpt_serve.onnx_runtime.tokens import Tokenizer, load_tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
EMBEDDED = load_tokenizer(MODEL)
"""Byte-level: a character may be several tokens, and a token parts of several characters."""


def bytes_tokenizer() -> Tokenizer:
    """As SentencePiece models are: words with a bar in front, and a token for each byte."""
    names = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁Once", "▁upon", "a"]
    backend = Backend(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(backend, None, {})


BYTES = bytes_tokenizer()
ONCE, UPON = 257, 258


def as_bytes(text: str) -> list[int]:
    return [1 + byte for byte in text.encode()]


def pieces(decoder: Tokenizer, prompt: Sequence[int], tokens: Sequence[int]) -> list[str]:
    """What each token adds, and what is left at the end."""
    detokenizer = Detokenizer(decoder, prompt)
    return [*(detokenizer.add(token) for token in tokens), detokenizer.finish()]


# -- characters ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(prompt=TEXTS, text=TEXTS)
def test_pieces_are_the_whole_text_and_never_half_a_character(prompt: str, text: str) -> None:
    before, tokens = EMBEDDED.encode(prompt), EMBEDDED.encode(text, special=False)
    found = pieces(EMBEDDED, before, tokens)
    whole = EMBEDDED.decode(before + tokens)[len(EMBEDDED.decode(before)) :]
    assert "".join(found).rstrip("\ufffd") == whole.rstrip("\ufffd")
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in found)


@settings(deadline=None)
@given(text=TEXTS)
def test_a_byte_at_a_time_comes_out_a_character_at_a_time(text: str) -> None:
    found = pieces(BYTES, [ONCE], as_bytes(text))
    assert "".join(found).rstrip("\ufffd") == text.rstrip("\ufffd")
    if "\ufffd" not in text:
        assert [piece for piece in found if piece] == list(text)


def test_a_character_that_is_never_finished_is_left_out() -> None:
    family = as_bytes("👨‍👩")
    assert "".join(pieces(BYTES, [ONCE], family[:-1])) == "👨‍"
    spoiled = "".join(pieces(BYTES, [ONCE], [*family[:-1], UPON, UPON]))
    assert spoiled.startswith("👨‍")
    assert spoiled.endswith(" upon upon")


def test_a_character_may_begin_in_the_prompt() -> None:
    first, *rest = as_bytes("é")
    assert "".join(pieces(BYTES, [ONCE, first], [*rest, UPON])) == "é upon"


def test_the_space_between_prompt_and_answer_is_kept() -> None:
    assert BYTES.decode([UPON]) == "upon"
    assert pieces(BYTES, [ONCE], [UPON, UPON]) == [" upon", " upon", ""]
    assert pieces(BYTES, [], [UPON, UPON]) == ["upon", " upon", ""]


def test_a_token_by_itself_keeps_its_space() -> None:
    assert [BYTES.token(i) for i in (ONCE, UPON, *as_bytes("\n"))] == [" Once", " upon", "\n"]
    assert BYTES.token(as_bytes("é")[0]) == "\ufffd"


def test_special_tokens_in_a_row_are_not_decoded_again_and_again() -> None:
    [begin] = EMBEDDED.encode("")
    decoded: list[int] = []

    class Counting:
        def decode(self, ids: Sequence[int]) -> str:
            decoded.append(len(ids))
            return EMBEDDED.decode(ids)

    words = EMBEDDED.encode("Once upon", special=False)
    detokenizer = Detokenizer(Counting(), words)
    assert [detokenizer.add(begin) for _ in range(50)] == [""] * 50
    assert detokenizer.add(words[-1]) == EMBEDDED.token(words[-1])
    assert max(decoded) <= len(words) + 1


def test_special_tokens_are_no_text() -> None:
    [begin] = EMBEDDED.encode("")
    tokens = EMBEDDED.encode("Once upon", special=False)
    assert "".join(pieces(EMBEDDED, [begin], [begin, *tokens, begin])) == "Once upon"


# -- stop strings ----------------------------------------------------------------------------------


def stopped(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Text up to the stop string that is complete first; of two at once, the longer one."""
    for end in range(len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            longest = max(met, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    parts=st.lists(st.text("abc", max_size=4), max_size=8),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_are_met_in_whatever_pieces_the_text_comes(
    parts: list[str], stops: list[str]
) -> None:
    watch = StopStrings(stops)
    shown = ""
    for number, part in enumerate(parts, 1):
        shown += watch.add(part)
        so_far = "".join(parts[:number])
        assert stopped(so_far, stops)[0].startswith(shown), "nothing was shown too early"
        held = len(so_far) - len(shown)
        if watch.found is None and held:
            # As little as can be is held back: it may still become a stop string.
            assert any(stop.startswith(so_far[-held:]) for stop in stops)
    shown += watch.finish()
    assert (shown, watch.found) == stopped("".join(parts), stops)


def test_a_stop_string_may_end_within_a_token() -> None:
    tokens = EMBEDDED.encode("Once upon a time, there was", special=False)
    stream = TextStream(EMBEDDED, [], ["n a ti"])
    found = [stream.add(token) for token in tokens]
    assert "".join(found) + stream.finish() == "Once upo"
    assert stream.stopped
    assert stream.stop == "n a ti"


def test_text_held_back_comes_at_the_end() -> None:
    tokens = EMBEDDED.encode("Once upon", special=False)
    stream = TextStream(EMBEDDED, [], ["upon a"])
    assert "".join(stream.add(token) for token in tokens) == "Once "
    assert (stream.finish(), stream.stopped) == ("upon", False)


# -- ends ------------------------------------------------------------------------------------------


def run(
    tokens: Sequence[int], most: int, stops: Sequence[str] = (), eos: frozenset[int] = frozenset()
) -> tuple[Continuation, list[str]]:
    """A continuation that is made to choose these tokens, until it ends."""
    text = Continuation(
        [1], SamplingOptions(), max_new_tokens=most, decoder=EMBEDDED, eos=eos, stops=stops
    )
    found = []
    for token in tokens:
        if text.finish_reason:
            break
        logits = np.zeros(4096, np.float32)
        logits[token] = 1
        found.append(text.take(logits))
    return text, found


WORDS = EMBEDDED.encode("Once upon a time", special=False)
WHOLE = "Once upon a time"
END = frozenset({2, 3})
ENDS: dict[str, tuple[Callable[[], tuple[Continuation, list[str]]], str | None, object, str]] = {
    "goes on": (lambda: run(WORDS, 99), None, None, WHOLE),
    "length": (lambda: run(WORDS, len(WORDS)), "length", None, WHOLE),
    "end token": (lambda: run([*WORDS, 2], 99, eos=END), "stop", 2, WHOLE),
    "end token last": (lambda: run([*WORDS, 2], len(WORDS) + 1, eos=END), "stop", 2, WHOLE),
    "no end token": (lambda: run([*WORDS, 2], 99), None, None, WHOLE),
    "stop": (lambda: run(WORDS, 99, ["pon"]), "stop", "pon", "Once u"),
    "stop at the last": (lambda: run(WORDS, len(WORDS), ["me"]), "stop", "me", WHOLE[:-2]),
    "half a stop": (lambda: run(WORDS, len(WORDS), ["times"]), "length", None, WHOLE),
    "half a stop and an end": (lambda: run([*WORDS, 2], 99, ["times"], END), "stop", 2, WHOLE),
}


@pytest.mark.parametrize(("made", "reason", "matched", "text"), ENDS.values(), ids=ENDS)
def test_why_a_text_ends(
    made: Callable[[], tuple[Continuation, list[str]]],
    reason: str | None,
    matched: object,
    text: str,
) -> None:
    found, given = made()
    assert (found.finish_reason, found.matched, found.text) == (reason, matched, text)
    assert "".join(given) == text


def test_what_is_decoded_next_is_not_in_the_cache_yet() -> None:
    text, _ = run(WORDS, 99)
    assert text.last == WORDS[-1]
    assert text.cached == 1 + len(WORDS) - 1
    assert (text.prompt, text.tokens) == ([1], WORDS)
