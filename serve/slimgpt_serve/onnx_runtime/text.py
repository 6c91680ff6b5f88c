"""From a stream of tokens to a stream of text: whole characters, and stop strings cut out."""

from __future__ import annotations

from collections.abc import Sequence

from slimgpt_serve.onnx_runtime.tokens import UNFINISHED, Decoder

_CONTEXT = 8
"""Tokens of the prompt that are decoded along: a SentencePiece decoder drops the space in front of
the first word it is given, and a character may begin in the prompt."""


class Detokenizer:
    """Text of tokens as they come; a character is given out when its last byte is there.

    A piece of text is what a token adds to the text of the tokens before it: decoding it alone
    would lose spaces, and parts of characters.
    """

    def __init__(self, decoder: Decoder, prompt: Sequence[int]) -> None:
        self._decode = decoder.decode
        self._tokens = list(prompt[-_CONTEXT:])
        self._known = self._decode(self._tokens).rstrip(UNFINISHED)
        self._given = len(self._tokens)

    def add(self, token: int) -> str:
        """What this token makes certain; empty inside a character, and for special tokens."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text and text == self._known:  # a special token: there may be thousands in a row
            self._tokens.pop()
            return ""
        # By length: a byte that fits nowhere may spoil the whole run of bytes that it ends, a part
        # of which was given out as it should be.
        if text.endswith(UNFINISHED) or len(text) <= len(self._known):
            return ""
        piece = text[len(self._known) :]
        # The tokens of this piece are the context of the next ones.
        self._tokens = self._tokens[self._given :]
        self._known = self._decode(self._tokens)
        self._given = len(self._tokens)
        return piece

    def finish(self) -> str:
        """What was held back, without the character that will never be finished."""
        text = self._decode(self._tokens).rstrip(UNFINISHED)
        return text[len(self._known) :]


class StopStrings:
    """Text up to the first stop string; what may be the beginning of one is held back.

    Where several are met, the one that is complete first counts, so that the text does not depend
    on the pieces it came in.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def add(self, piece: str) -> str:
        """The text that is certain now; nothing more comes once a stop string was ``found``."""
        if self.found is not None:
            return ""
        text = self._held + piece
        ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops]
        met = min((end for end in ends if end[0] + end[1] >= 0), default=None)
        if met:
            self.found, self._held = met[2], ""
            return text[: met[0] + met[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back after all."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Longest end of the text that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)


class TextStream:
    """Text of generated tokens as it becomes certain, up to the first stop string."""

    def __init__(self, decoder: Decoder, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(decoder, prompt)
        self._stops = StopStrings(stops)

    @property
    def stop(self) -> str | None:
        """The stop string that was met."""
        return self._stops.found

    @property
    def stopped(self) -> bool:
        return self._stops.found is not None

    def add(self, token: int) -> str:
        """The text that is certain now."""
        return self._stops.add(self._detokenizer.add(token))

    def finish(self) -> str:
        """What was held back, once no token will come."""
        return self._stops.add(self._detokenizer.finish()) + self._stops.finish()
