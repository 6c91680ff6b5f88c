"""From a checked request to what the engine generates: prompts, limits, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from slimgpt.errors import UsageError
from slimgpt_serve.onnx_runtime.sampling import SamplingOptions
from slimgpt_serve.openai_api.events import Ask
from slimgpt_serve.openai_api.protocol import ChatRequest, CompletionRequest, GenerationRequest
from slimgpt_serve.openai_api.refusal import Refusal

if TYPE_CHECKING:
    from slimgpt_serve.onnx_runtime.tokens import Tokenizer

_SEEDS = 2**63


class Asks:
    """Makes what the engine is asked for; the same requests in the same order give the same."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocabulary: int,
        capacity: int,
        eos: frozenset[int],
        seed: int,
    ) -> None:
        """Keeps what is the same for all requests.

        Args:
            tokenizer: of the model.
            vocabulary: how many tokens the model knows.
            capacity: most tokens of a prompt and its answer together.
            eos: tokens that end an answer.
            seed: of the seeds of requests that bring none.
        """
        self._tokenizer, self._eos = tokenizer, eos
        self._vocabulary, self._capacity = vocabulary, capacity
        self._seeds = np.random.default_rng(seed)

    def completions(self, request: CompletionRequest) -> list[Ask]:
        """The answers to a request to /v1/completions: ``n`` for each prompt, in order.

        Raises:
            Refusal: 400: a prompt is too long, or has ids that the model does not know.
        """
        ends = self._ends(request)
        return [
            ask
            for prompt in request.prompts
            for ask in self._of(request, self._ids(request, prompt), ends)
        ]

    def chat(self, request: ChatRequest) -> list[Ask]:
        """The answers to a request to /v1/chat/completions.

        Raises:
            Refusal: 400: no chat template, one that refuses the messages, or they are too long.
        """
        messages = [message.as_template_reads_it() for message in request.messages]
        try:
            prompt = self._tokenizer.chat(messages, **request.chat_template_kwargs)
        except UsageError as reason:
            raise Refusal(400, str(reason), param="messages") from None
        return self._of(request, self._known(prompt, "messages"), self._ends(request))

    def text_of(self, ask: Ask) -> str:
        """The prompt as text, for a client that wants it back."""
        return self._tokenizer.decode(ask.prompt)

    def _ids(self, request: CompletionRequest, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            prompt = self._tokenizer.encode(prompt, special=request.add_special_tokens)
        return self._known(prompt, "prompt")

    def _known(self, prompt: list[int], field: str) -> list[int]:
        """The ids, if the model has an embedding for each: a tokenizer may have more tokens."""
        if prompt and max(prompt) >= self._vocabulary:
            raise Refusal(
                400,
                f"{field} has the token id {max(prompt)}, and the model knows 0 to "
                f"{self._vocabulary - 1}: use its own tokenizer",
                param=field,
            )
        return prompt

    def _ends(self, request: GenerationRequest) -> frozenset[int]:
        """Ids that end an answer; one set for all answers, since clients may name many."""
        ends = frozenset(request.stop_token_ids)
        return ends if request.ignore_eos else ends | self._eos

    def _of(
        self, request: GenerationRequest, prompt: Sequence[int], ends: frozenset[int]
    ) -> list[Ask]:
        if not prompt:
            raise Refusal(400, "the prompt has no tokens: give some text to go on from")
        tokens = self._limit(request, len(prompt))
        seed = int(self._seeds.integers(_SEEDS)) if request.seed is None else request.seed
        return [
            Ask(
                prompt=tuple(prompt),
                max_tokens=tokens,
                sampling=SamplingOptions(
                    temperature=request.temperature,
                    top_k=max(0, request.top_k),
                    top_p=request.top_p,
                    repetition_penalty=request.repetition_penalty,
                    seed=(seed + choice) % 2**64,  # numpy takes none below 0
                ),
                stop_strings=request.stop_strings,
                end_ids=ends,
                alternatives=request.alternatives,
            )
            for choice in range(request.n)
        ]

    def _limit(self, request: GenerationRequest, prompt: int) -> int:
        """Most tokens of an answer to a prompt of that many."""
        room, asked = self._capacity - prompt, request.asked_tokens
        if room < 1:
            raise Refusal(
                400,
                f"the prompt has {prompt} tokens, and this server takes {self._capacity} of prompt "
                "and answer together: shorten it, or start the server with a larger "
                "--max-model-len if the model's context allows",
                param="messages" if isinstance(request, ChatRequest) else "prompt",
                code="context_length_exceeded",
            )
        if asked is not None and asked > room:
            raise Refusal(
                400,
                f"the prompt has {prompt} tokens and max_tokens is {asked}, and this server takes "
                f"{self._capacity} of prompt and answer together: give max_tokens of at most "
                f"{room}, or shorten the prompt",
                param="max_tokens",
                code="context_length_exceeded",
            )
        usual = room if request.default_tokens is None else min(request.default_tokens, room)
        return usual if asked is None else asked
