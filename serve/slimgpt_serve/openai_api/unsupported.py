"""Fields of OpenAI's and vLLM's requests that would change the answer, and are not supported.

Fields that nobody knows are ignored, as vLLM does; a client must not get an answer that silently
leaves out what it asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimgpt_serve.openai_api.refusal import problem

_WITHOUT_TOOLS = ("none", "auto")

HARMLESS: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "frequency_penalty": (0,),
    "function_call": _WITHOUT_TOOLS,
    "functions": ([],),
    "guided_choice": ([],),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "presence_penalty": (0,),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": _WITHOUT_TOOLS,
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}
"""Each field with the values that ask for nothing; null always does."""


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Refuses a request whose answer would have to be another than this server gives.

    Raises:
        PydanticCustomError: naming the field.
    """
    for field, harmless in HARMLESS.items():
        value = body.get(field)
        if value is not None and value not in harmless:
            raise problem(field, f"{field} is not supported by this server: leave it out")
