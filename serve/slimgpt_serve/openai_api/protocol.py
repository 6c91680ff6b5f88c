"""Requests of OpenAI's API: /v1/completions and /v1/chat/completions, as far as they are met here.

A field that is null counts as absent. Defaults are OpenAI's: 16 tokens of a completion, what is
left of the context for chat, temperature 1 for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from slimgpt_serve.openai_api.refusal import problem
from slimgpt_serve.openai_api.unsupported import refuse_unsupported

MOST_ALTERNATIVES = 20
"""Of one token's log-probabilities: OpenAI's limit for chat."""

DEFAULT_COMPLETION_TOKENS = 16
_MOST_CHOICES = 128
_MOST_STOPS = 16
_LONGEST_STOP = 256
_INT64 = 2**63

TAKEN_BY_RENDERING = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversations",
    "documents",
    "messages",
    "return_assistant_tokens_mask",
    "tools",
}
"""What a client must not set behind the back of the code that fills in the template."""

StopString = Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST_STOP)]
Stops = Annotated[list[StopString], Field(max_length=_MOST_STOPS)]
TokenIds = list[Annotated[int, Field(ge=0)]]


class StreamOptions(BaseModel):
    """What a stream sends beside the text."""

    include_usage: bool = False


class GenerationRequest(BaseModel):
    """What both endpoints understand."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: str | None = None
    n: int = Field(default=1, ge=1, le=_MOST_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1, description="0 and -1 take every token.")
    repetition_penalty: float = Field(default=1.0, gt=0)
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    stop: StopString | Stops = Field(default_factory=list)
    stop_token_ids: TokenIds = Field(default_factory=list)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        if not isinstance(body, Mapping):
            return body
        given = {name: value for name, value in body.items() if value is not None}
        refuse_unsupported(given)
        return given

    @field_validator("stop", mode="wrap")
    @classmethod
    def _stops(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise problem(
                "stop",
                f"stop takes a string or up to {_MOST_STOPS} strings, each of 1 to "
                f"{_LONGEST_STOP} characters",
            ) from None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> GenerationRequest:
        if self.stream_options and not self.stream:
            raise problem(
                "stream_options",
                "stream_options means nothing without stream: set stream to true",
            )
        return self

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def with_usage(self) -> bool:
        """Whether the last thing that a stream sends is how many tokens it took."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def answers(self) -> int:
        """How many are asked for, of all prompts."""
        return self.n

    @property
    def asked_tokens(self) -> int | None:
        """Most tokens of an answer, where the client says."""
        return self.max_tokens

    @property
    def default_tokens(self) -> int | None:
        """Most tokens where the client does not say; None for what is left of the context."""
        return None

    @property
    def alternatives(self) -> int | None:
        """Log-probabilities to tell beside that of each token; None for none at all."""
        return None


class CompletionRequest(GenerationRequest):
    """Body of /v1/completions."""

    prompt: str | list[str] | TokenIds | list[TokenIds]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    echo: bool = False
    add_special_tokens: bool = True

    @field_validator("prompt", mode="wrap")
    @classmethod
    def _prompts(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            prompt = handler(value)
        except ValidationError:
            raise problem(
                "prompt",
                "prompt takes a string, a list of strings, a list of token ids, or a list of those",
            ) from None
        if prompt == [] or (isinstance(prompt, list) and [] in prompt):
            raise problem("prompt", "prompt is empty: give some text to go on from")
        return prompt

    @model_validator(mode="after")
    def _nothing_known_of_the_prompt(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise problem(
                "echo",
                "echo with logprobs is not supported by this server: leave one of them out",
            )
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One or more prompts, all texts or all token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [prompt]
        return prompt

    @property
    def answers(self) -> int:
        return self.n * len(self.prompts)

    @property
    def default_tokens(self) -> int | None:
        return DEFAULT_COMPLETION_TOKENS

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


class TextPart(BaseModel):
    """A part of a message; of OpenAI's kinds, text is what a language model reads."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: str = Field(min_length=1)
    content: str | list[TextPart] = ""
    name: str | None = None

    @field_validator("content", mode="wrap")
    @classmethod
    def _texts(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler("" if value is None else value)
        except ValidationError:
            raise problem(
                "messages",
                "messages take text alone: content is a string, or a list of parts of type text",
            ) from None

    @model_validator(mode="before")
    @classmethod
    def _no_calls(cls, body: Any) -> Any:
        if isinstance(body, Mapping) and (body.get("tool_calls") or body.get("function_call")):
            raise problem(
                "messages",
                "tool calls in messages are not supported by this server: leave them out",
            )
        return body

    def as_template_reads_it(self) -> dict[str, str]:
        """Role and one text, the parts joined by line breaks as vLLM does, and the name if any."""
        parts = self.content
        text = parts if isinstance(parts, str) else "\n".join(part.text for part in parts)
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": text, **named}


class ChatRequest(GenerationRequest):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MOST_ALTERNATIVES)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @field_validator("chat_template_kwargs")
    @classmethod
    def _own_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(TAKEN_BY_RENDERING & values.keys())
        if taken:
            raise problem(
                "chat_template_kwargs",
                f"chat_template_kwargs may not set {taken[0]}: it takes variables of the template "
                "alone",
            )
        return values

    @model_validator(mode="after")
    def _alternatives_of_something(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise problem(
                "top_logprobs",
                "top_logprobs means nothing without logprobs: set logprobs to true",
            )
        return self

    @property
    def asked_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs if self.logprobs else None
