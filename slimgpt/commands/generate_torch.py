"""``slimgpt generate`` of a checkpoint, by transformers."""

from __future__ import annotations

import importlib
from pathlib import Path
from time import monotonic
from typing import Any

from slimgpt.commands.completion import Asked, OnText, Outcome
from slimgpt.errors import UsageError

_RUNTIME = "slimgpt_serve.onnx_runtime"
"""Text and stop strings are made there, for both engines; neither needs ONNX Runtime."""


def by_transformers(directory: Path, asked: Asked, dtype: str, on_text: OnText) -> Outcome:
    """Completes the prompt with transformers' own ``generate``.

    Args:
        directory: of the checkpoint.
        asked: what to generate.
        dtype: to compute in, as ``--dtype``.
        on_text: told each piece of text.

    Raises:
        UsageError: the prompt is empty, or fills the context.
        IntegrityError: tokenizer and weights don't fit each other.
    """
    import torch

    from slimgpt.loading import load_model
    from slimgpt.tokenizer import load_tokenizer, require_in_vocabulary, well_formed

    loaded, meta = load_model(directory, device=asked.device, dtype=dtype)
    tokenizer = load_tokenizer(directory)
    ids = tokenizer(well_formed(asked.prompt), verbose=False)["input_ids"]
    if not ids:
        raise UsageError("PROMPT is empty: give some text to go on from")
    require_in_vocabulary(ids, meta.shape.vocab_size, "PROMPT")
    room = (meta.context_length or len(ids) + asked.max_new_tokens) - len(ids)
    if room < 1:
        raise UsageError(
            f"PROMPT has {len(ids)} tokens, beyond the model's context of {meta.context_length}"
        )
    end = loaded.generation_config.eos_token_id
    watch = _Watch(tokenizer, ids, asked.stops, end, on_text)
    torch.manual_seed(asked.seed)
    loaded.generation_config = _settings(asked, min(asked.max_new_tokens, room), end)
    prompt_ids = torch.tensor([ids], device=loaded.device)
    started = monotonic()
    loaded.generate(
        prompt_ids,
        attention_mask=torch.ones_like(prompt_ids),
        stopping_criteria=[watch],
    )
    watch.finish()
    seconds = monotonic() - started
    device = str(loaded.device)
    return Outcome(watch.text, watch.tokens, watch.reason, seconds, "transformers", device)


def _settings(asked: Asked, most: int, end: int | list[int] | None) -> Any:
    """Not the checkpoint's own: each option means the same for every model."""
    from transformers import GenerationConfig

    drawing = asked.temperature > 0
    narrowed = {"temperature": asked.temperature, "top_p": asked.top_p} if drawing else {}
    return GenerationConfig(
        max_new_tokens=most,
        do_sample=drawing,
        top_k=asked.top_k if drawing else 0,
        repetition_penalty=asked.repetition_penalty,
        eos_token_id=end,
        pad_token_id=0,
        **narrowed,
    )


class _Watch:
    """Follows transformers' ``generate`` as the last of its stopping criteria.

    transformers' own stop strings leave the string in the text, and may begin in the prompt; here
    they mean what they mean on ONNX Runtime. Its streamers are told of a token after the criteria.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: list[int],
        stops: tuple[str, ...],
        end: int | list[int] | None,
        on_text: OnText,
    ) -> None:
        decoder = importlib.import_module(f"{_RUNTIME}.tokens").TransformersDecoder(tokenizer)
        text: Any = importlib.import_module(f"{_RUNTIME}.text")
        self._stream = text.TextStream(decoder, prompt, stops)
        self._end = set(end) if isinstance(end, list) else {end}
        self._on_text = on_text
        self.text, self.tokens, self.reason = "", 0, "length"

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        """Takes the last token of ids (1, tokens); whether the text is at its end."""
        if self.reason == "length":  # on GPUs, a step more may be under way
            token = int(ids[0, -1])
            self.tokens += 1
            if token in self._end:
                self.reason = "stop"
            else:
                self._give(self._stream.add(token))
        return ids.new_full((1,), self.reason == "stop", dtype=bool)

    def finish(self) -> None:
        """No token will come: gives out what was held back."""
        if not self._stream.stopped:
            self._give(self._stream.finish())

    def _give(self, piece: str) -> None:
        self.text += piece
        if self._stream.stopped:
            self.reason = "stop"
        if piece:
            self._on_text(piece)
