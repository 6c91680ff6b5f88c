"""What a request is answered that can't be met: a status, and an error in OpenAI's form."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticCustomError

from slimgpt.tokenizer import well_formed

OWN = "slimgpt"
"""Type of the validation errors that say all by themselves."""

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_SERVER_ERROR = 500


class Refusal(Exception):
    """A request that gets an error for an answer.

    Attributes:
        status: of HTTP.
        message: what was given, what is allowed and what to do.
        param: the field of the request that is meant.
        code: a word that programs can look for.
        retry_after_s: when it may be worth trying again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.retry_after_s = param, code, retry_after_s

    def body(self) -> dict[str, Any]:
        """The JSON document of the answer."""
        return {
            "error": {
                "message": well_formed(self.message),  # it may quote what the client sent
                "type": _type_of(self.status),
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """What the answer carries beside its body."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def _type_of(status: int) -> str:
    if status >= _SERVER_ERROR:
        return "server_error"
    return _TYPES.get(status, "invalid_request_error")


def problem(param: str, message: str) -> PydanticCustomError:
    """What a validator raises: a message that is told as it is, about a field of the request."""
    # The message goes in as a value: braces in it would be taken for a template's.
    return PydanticCustomError(OWN, "{message}", {"param": param, "message": message})
