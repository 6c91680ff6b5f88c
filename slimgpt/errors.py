"""The errors a user can cause, each carrying the exit code of its class (INTERFACE.md)."""

from __future__ import annotations


class SlimGPTError(Exception):
    """Base of every expected failure: the command line prints its message as one line.

    The message says what was given, what is allowed and what to do, in the user's flag names.

    Attributes:
        problems: where there are several, each as a line of its own; empty for a single one.
    """

    exit_code = 1
    problems: tuple[str, ...] = ()


class GateMissed(SlimGPTError):
    """The work was done and the result is not good enough to be released.

    Attributes:
        measured: what was found, where it is one number.
        limit: what it had to stay below.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, measured: float | None = None, limit: float | None = None
    ) -> None:
        super().__init__(message)
        self.measured, self.limit = measured, limit


class UsageError(SlimGPTError):
    """A wrong option, recipe or path: nothing was started."""

    exit_code = 2


class Unresolved(SlimGPTError):
    """Something was to be measured, and what that needs was not given."""

    exit_code = 3


class EnvironmentProblem(SlimGPTError):
    """Something this machine lacks: an extra, a GPU, disk space, the network."""

    exit_code = 4


class IntegrityError(SlimGPTError):
    """Corrupt, incomplete or hostile input, or a failed verification."""

    exit_code = 5


def missing_extra(feature: str, extra: str) -> EnvironmentProblem:
    """The error for an optional package that is not installed."""
    return EnvironmentProblem(
        f"{feature} needs an optional package: install it with pip install 'slimgpt[{extra}]'"
    )
