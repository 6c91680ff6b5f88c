"""The hub's client, tamed: whose token it uses, how long it waits, what it says and how it fails.

The token comes from the environment alone, and no message of this module has it in it, whatever a
server or a library says.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from slimgpt.errors import EnvironmentProblem, SlimGPTError
from slimgpt.progress import Progress

VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_LONGEST_SILENCE_S = 600.0
"""The client itself waits for ever, which nobody who runs unattended jobs wants."""
_LONGEST_QUOTE = 300
_XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})")
_AGAIN = "run the command again: what has arrived is not sent twice"
_ADVICE = {
    401: "the token in {variable} is not accepted: give a valid one with write access",
    403: "the token in {variable} may not write there: give one that may, or another repository",
    404: "there is no such repository or organisation, or it is hidden from the token in "
    "{variable}: check both",
    409: f"something else is changing the repository: {_AGAIN}",
    412: f"something else has changed the repository meanwhile: {_AGAIN}",
    429: f"too many requests: wait, and {_AGAIN}",
}


@dataclass(frozen=True, slots=True)
class Token:
    """A secret.

    Attributes:
        variable: of the environment that it came from.
        secret: what is sent in a header, and goes nowhere else.
    """

    variable: str
    secret: str = field(repr=False)

    def scrub(self, text: object) -> str:
        """The text as one line of bounded length, without the secret."""
        line = str(text)
        for shape in (self.secret, quote(self.secret, safe="")):
            line = line.replace(shape, f"<{self.variable}>")
        return " ".join(line.split())[:_LONGEST_QUOTE]


def token_for(purpose: str) -> Token:
    """The token of the environment; login files are not looked at.

    Raises:
        EnvironmentProblem: there is none, or it can't be one.
    """
    for variable in VARIABLES:
        secret = os.environ.get(variable, "").strip()
        if not secret:
            continue
        # The client would quote a header with a line break in the error that it makes of it.
        if not (secret.isascii() and secret.isprintable() and " " not in secret):
            raise EnvironmentProblem(
                f"the environment variable {variable} holds something that is no token: put a "
                "token of the hub with write access into it"
            )
        return Token(variable, secret)
    raise EnvironmentProblem(
        f"{purpose} needs a token of the hub with write access in the environment variable "
        f"{VARIABLES[0]}, which is not set"
    )


@contextmanager
def hub_client(purpose: str, token: Token, progress: Progress) -> Iterator[None]:
    """A block that uses the hub's client: quiet, with a time limit and errors of one line.

    Bars and log lines of the client stay out; its warnings become messages.

    Raises:
        EnvironmentProblem: instead of whatever the client, or a layer below it, raises.
    """
    with warnings.catch_warnings(record=True) as caught, _silent():
        warnings.simplefilter("always")
        try:
            yield
        except (SlimGPTError, MemoryError):
            raise
        except Exception as reason:  # noqa: BLE001 - each layer below has errors of its own
            # A chained error would print the request, which has the token in its headers.
            raise _explained(reason, purpose, token) from None
        finally:
            for warning in caught:
                if issubclass(warning.category, UserWarning):
                    progress.message(token.scrub(warning.message))


@contextmanager
def _silent() -> Iterator[None]:
    from huggingface_hub import get_session
    from huggingface_hub import logging as hub_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    session, verbosity = get_session(), hub_logging.get_verbosity()
    patience, session.timeout = session.timeout, _LONGEST_SILENCE_S
    hub_logging.set_verbosity(logging.CRITICAL)
    try:
        with disable_progress_bars():
            yield
    finally:
        session.timeout = patience
        hub_logging.set_verbosity(verbosity)


def _explained(reason: Exception, purpose: str, token: Token) -> EnvironmentProblem:
    """One line for an error of the client."""
    from huggingface_hub import constants

    cause = _origin(reason)
    words = token.scrub(cause)
    told = f"{purpose}: {urlsplit(constants.ENDPOINT).netloc.rpartition('@')[2]}"
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status is None and (found := _XET_STATUS.search(words)):
        status = int(found[1])
    if status is None:
        what = "can't be reached or hung up" if _is_network(cause) else "could not be talked to"
        return EnvironmentProblem(f"{told} {what} ({type(cause).__name__}: {words}); {_AGAIN}")
    advice = _ADVICE.get(status, "the request is refused")
    if status >= 500:
        advice = f"it has a fault of its own; later, {_AGAIN}"
    said = token.scrub(getattr(cause, "server_message", None) or "")
    quoted = f" (it says: {said})" if said else ""
    return EnvironmentProblem(
        f"{told} answers {status}: {advice.format(variable=token.variable)}{quoted}"
    )


def _origin(reason: BaseException) -> BaseException:
    """The answer that the client wrapped into an error of its own, or else what it met."""
    chain = [reason]
    while chain[-1].__cause__:
        chain.append(chain[-1].__cause__)
    answers = (x for x in chain if hasattr(x, "response"))
    met = (x for x in chain if not isinstance(x, RuntimeError))
    return next(answers, None) or next(met, reason)


def _is_network(cause: BaseException) -> bool:
    """ConnectionError of Python and of hf_xet, or an error of the HTTP client's transport."""
    kinds = (kind.__name__ for kind in type(cause).__mro__)
    return isinstance(cause, ConnectionError) or "TransportError" in kinds
