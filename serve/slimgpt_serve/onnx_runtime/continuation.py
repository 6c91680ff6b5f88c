"""One text while it is generated: its tokens, its limits, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence

from slimgpt_serve.onnx_runtime.sampling import Floats, Sampler, SamplingOptions
from slimgpt_serve.onnx_runtime.text import TextStream
from slimgpt_serve.onnx_runtime.tokens import Decoder


class Continuation:
    """A prompt and what follows, token by token.

    Attributes:
        prompt: its tokens.
        tokens: generated so far, a last end token included.
        text: that is certain so far.
        finish_reason: ``stop`` or ``length``; None while it goes on.
        matched: the end token or the stop string that ended it.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        options: SamplingOptions,
        *,
        max_new_tokens: int,
        decoder: Decoder,
        eos: frozenset[int] = frozenset(),
        stops: Sequence[str] = (),
    ) -> None:
        """Begins with nothing generated.

        Args:
            prompt: at least one token.
            options: of sampling; each sequence draws by itself.
            max_new_tokens: at most, end token included; at least 1.
            decoder: that makes text of tokens.
            eos: tokens that end it.
            stops: strings that end it and are cut out.
        """
        self.prompt = list(prompt)
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.matched: int | str | None = None
        self._sampler = Sampler(options)
        self._seen = list(prompt)
        self._stream = TextStream(decoder, prompt, stops)
        self._most = max_new_tokens
        self._eos = eos

    @property
    def last(self) -> int:
        """The token to be decoded next."""
        return self._seen[-1]

    @property
    def cached(self) -> int:
        """Tokens in the cache when ``last`` is decoded: all but that one."""
        return len(self._seen) - 1

    def take(self, logits: Floats) -> str:
        """Chooses the next token from logits (vocabulary,); gives the text that is certain now."""
        token = self._sampler.pick(logits, self._seen)
        self.tokens.append(token)
        self._seen.append(token)
        piece = ""
        if token in self._eos:
            self.finish_reason, self.matched = "stop", token
        else:
            piece = self._stream.add(token)
            if self._stream.stopped:
                self.finish_reason, self.matched = "stop", self._stream.stop
            elif len(self.tokens) >= self._most:
                self.finish_reason = "length"
        if self.finish_reason and not self._stream.stopped:
            piece += self._finish()
        self.text += piece
        return piece

    def _finish(self) -> str:
        piece = self._stream.finish()
        if self._stream.stopped:
            self.finish_reason, self.matched = "stop", self._stream.stop
        return piece
